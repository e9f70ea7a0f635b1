"""``unhurried events``: what happened, and who did it."""

from typing import Annotated

import typer

from unhurried.cli.connection import JsonOption, SocketOption, daemon
from unhurried.cli.exits import NO, OK, CliError
from unhurried.cli.moments import since as moment
from unhurried.cli.output import json_line, say, table


def events(
    entity: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Of this batch, request, delivery, queue or destination only.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="What happened then or later: 2h, 3d, 2026-11-22T08:00:00Z.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the last ones.")] = 50,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Show what happened, the latest last.

    Every change of a batch and every act of an operator, with who did it. Exit 1 when nothing is known of ID. --json
    gives one object a line.

    \b
    unhurried events --since 2h
    unhurried events 0198f0c2-5b1e-7c3a-9d5e-0a6f6f3f2c11
    """
    with daemon(socket) as client:
        found = client.events(entity, limit=limit, since=moment(since))
    if entity is not None and not found:
        raise CliError(f"nothing is on record of {entity!r}" + (f" since {since}" if since else ""), NO)
    if json:
        for event in found:
            json_line(event)
        return OK
    rows = [
        (e["at"], e["actor"], e["entity"], e["entity_id"], e["what"], e["old_state"], e["new_state"], e["detail"])
        for e in found
    ]
    table(("at", "actor", "entity", "id", "what", "from", "to", "detail"), rows)
    if len(found) == limit:
        say(f"these are the last {limit:,}: --limit shows more, up to 1,000")
    return OK
