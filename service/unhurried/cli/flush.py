"""``unhurried flush``: send what waits, now."""

from typing import Annotated

import typer

from unhurried.cli import completion
from unhurried.cli.connection import JsonOption, SocketOption, daemon
from unhurried.cli.exits import OK
from unhurried.cli.output import json_out


def flush(
    queue: Annotated[str | None, typer.Option(help="Only this queue.", autocompletion=completion.queues)] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.", autocompletion=completion.models)] = None,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Send what waits now.

    Nothing lingers any longer; smaller batches cost the same.

    \b
    unhurried flush --queue labels
    """
    with daemon(socket) as client:
        flushed = client.flush(queue=queue, model=model)
    if json:
        json_out(flushed)
    else:
        print(f"{flushed['requests']:,} requests in {flushed['groups']:,} groups will be sent now")
    return OK
