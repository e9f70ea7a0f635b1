"""``unhurried health``: one yes or no, for HEALTHCHECK and scripts."""

from typing import Annotated

import typer

from unhurried.cli.connection import JsonOption, SocketOption, socket_path
from unhurried.cli.exits import NO, OK
from unhurried.cli.output import json_out, say


def health(
    ready: Annotated[
        bool, typer.Option("--ready", help="Ask whether it takes requests, not whether it lives.")
    ] = False,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Exit 0 if the daemon is healthy, else 1.

    \b
    HEALTHCHECK CMD ["unhurried", "health"]
    """
    from unhurried.client import Client, DaemonUnreachable, QueueError

    try:
        with Client(socket_path(socket), timeout_s=10.0) as client:
            well, answer = client.ready() if ready else client.health()
    except (DaemonUnreachable, QueueError) as error:
        well, answer = False, {"status": "unreachable", "reason": str(error)}
    if json:
        json_out(answer)
    elif well:
        print("ready" if ready else "healthy")
    else:
        why = answer.get("reason") or answer.get("detail") or answer
        say(f"unhurried: not {'ready' if ready else 'healthy'}: {why}")
    return OK if well else NO
