"""``unhurried health``: one yes or no, for HEALTHCHECK, exec probes and scripts."""

from typing import Annotated

import typer

from unhurried.cli import probe
from unhurried.cli.connection import JsonOption, SocketOption, socket_path
from unhurried.cli.exits import USAGE, CliError


def health(
    ready: Annotated[bool, typer.Option("--ready", help="Does it take new requests? For a readiness probe.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Does it get on with its work? For a liveness probe; the default.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=probe.TIMEOUT_MIN_S, help="Seconds for the answer.")] = probe.TIMEOUT_S,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Exit 0 if the daemon is healthy, else 1.

    Upstream and webhooks are not asked: a restart would mend neither. --live is no when the event loop or the writer
    hangs, or the database cannot be used. --ready is no while the daemon goes down, or when its disk is nearly full.

    \b
    HEALTHCHECK CMD ["unhurried", "health"]
    unhurried health --ready --timeout 2
    """
    if ready and live:
        raise CliError("ask for --ready or for --live, not for both", USAGE)
    return probe.ask(probe.Question(socket_path(socket), ready, timeout, json))
