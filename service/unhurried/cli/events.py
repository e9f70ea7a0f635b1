"""``unhurried events``: what happened, and who did it."""

from typing import Annotated

import typer

from unhurried.cli.connection import JsonOption, SocketOption, daemon
from unhurried.cli.exits import OK
from unhurried.cli.output import json_line, table


def events(
    entity: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Of this batch, request, delivery, queue or destination only.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the last ones.")] = 50,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Show what happened, the latest last.

    Every change of a batch and every act of an operator, with who did it. --json gives one object a line.

    \b
    unhurried events 0198f0c2-5b1e-7c3a-9d5e-0a6f6f3f2c11
    """
    with daemon(socket) as client:
        found = client.events(entity, limit=limit)
    if json:
        for event in found:
            json_line(event)
        return OK
    rows = [
        (e["at"], e["actor"], e["entity"], e["entity_id"], e["what"], e["old_state"], e["new_state"], e["detail"])
        for e in found
    ]
    table(("at", "actor", "entity", "id", "what", "from", "to", "detail"), rows)
    return OK
