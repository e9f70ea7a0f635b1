"""``unhurried flush``: send what waits, now."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from unhurried.cli import completion
from unhurried.cli.connection import JsonOption, SocketOption, daemon
from unhurried.cli.exits import OK
from unhurried.cli.output import counted, json_out


def flush(
    queue: Annotated[str | None, typer.Option(help="Only this queue.", autocompletion=completion.queues)] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.", autocompletion=completion.models)] = None,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Send what waits now.

    Nothing lingers any longer; smaller batches cost the same. What is paused stays, and it says how much that is.

    \b
    unhurried flush --queue labels
    """
    with daemon(socket) as client:
        flushed = client.flush(queue=queue, model=model)
        if queue is not None and not flushed["requests"]:
            client.queue(queue)  # raises, with the names of those that there are
    if json:
        json_out(flushed)
    elif not flushed["requests"]:
        print("nothing waits to be sent")
    else:
        _tell(flushed)
    return OK


def _tell(flushed: Mapping[str, Any]) -> None:
    held = sum(one["requests"] for one in flushed["held"])
    total = f"{counted(flushed['requests'], 'request')} in {counted(flushed['groups'], 'group')}"
    print(
        f"{total}: {flushed['requests'] - held:,} will be sent now, {held:,} once nothing is paused"
        if held
        else f"{total} will be sent now"
    )
    for one in flushed["held"]:
        print(f"  {one['requests']:,}: {one['by']}")
