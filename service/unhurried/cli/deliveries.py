"""``unhurried deliveries list|show|redeliver``."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from unhurried.cli.connection import JsonOption, SocketOption, daemon
from unhurried.cli.destinations import full_name
from unhurried.cli.exits import NO, OK, USAGE, CliError
from unhurried.cli.moments import since as moment
from unhurried.cli.output import age, counted, fields, json_line, json_out, say, table

PAGE: Final = 1_000
SinceOption = Annotated[
    str | None, typer.Option(help="Ended then or later, or made if they have not ended: 2h, 3d, 2026-11-22T08:00:00Z.")
]


def list_(
    destination: Annotated[
        str | None, typer.Option(help="Only to this destination; NAME is short for webhook:NAME.")
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="Only in this state: pending, sending, delivered, dead, canceled.")
    ] = None,
    since: SinceOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """List deliveries, newest first.

    --json gives one object a line.

    \b
    unhurried deliveries list --destination webhook:app --state dead
    """
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    from_ = moment(since)
    with daemon(socket) as client:
        while len(found) < limit:
            page, cursor = client.deliveries(
                destination=full_name(destination) if destination is not None else None,
                states=state or (),
                since=from_,
                limit=min(PAGE, limit - len(found)),
                cursor=cursor,
            )
            found += page
            if cursor is None:
                break
    if json:
        for one in found:
            json_line(one)
        return OK
    columns = ("id", "destination", "state", "queue", "custom_id", "attempts", "age", "next", "last error")
    rows = [
        (one["id"], one["destination"], one["state"], one["queue"], one["custom_id"], one["attempts"],
         age(one["created_at"]), _next(one), one["last_error"])
        for one in found
    ]  # fmt: skip
    table(columns, rows, right=("attempts", "age", "next"))
    if cursor is not None:
        say(f"there are more: --limit {limit * 10}")
    return OK


def show(
    delivery_id: Annotated[str, typer.Argument(metavar="ID", help="As in `deliveries list`, or `webhook-id`.")],
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Show one delivery: its attempts, and what went wrong last.

    \b
    unhurried deliveries show 0198f0c2-5b1e-7c3a-9d5e-0a6f6f3f2c11.1
    """
    with daemon(socket) as client:
        found = client.delivery(delivery_id)
        events = client.events(delivery_id, limit=10)
    if json:
        json_out({**found, "events": events})
        return OK
    last = found["last_error"] and f"{found['last_failed_at']}: {found['last_error']}"
    fields(
        [
            ("delivery", found["id"]),
            ("destination", found["destination"]),
            ("state", found["state"]),
            ("confirmed by", found["confirmed_by"]),
            ("request", f"{found['request_id']} ({found['request_state']})"),
            ("custom_id", found["custom_id"]),
            ("queue", found["queue"]),
            ("attempts", found["attempts"]),
            ("made", found["created_at"]),
            ("next attempt", found["due_at"] if found["state"] == "pending" else None),
            ("lease until", found["due_at"] if found["state"] == "sending" else None),
            ("finished", found["finished_at"]),
            ("last failure", last),
        ]
    )
    for event in events:
        print(f"  {event['at']}  {event['what']}  {event.get('detail') or ''}".rstrip())
    return OK


def redeliver(
    delivery_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="This one, at once.")] = None,
    destination: Annotated[
        str | None, typer.Option(help="Those to this destination; NAME is short for webhook:NAME.")
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="dead, pending, delivered; may be repeated. Else those that are dead.")
    ] = None,
    since: SinceOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this it is only counted.")] = False,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Deliver results again, as new deliveries with ids and attempts of their own.

    By id at once. By destination it first says how many they are, and does nothing; with --yes it delivers them. What
    waits for its next attempt (`pending`) is sent now, what was delivered once is delivered twice: name these states
    if you mean them. Cut short at any moment, run it again: it goes on with the rest.

    \b
    unhurried deliveries redeliver 0198f0c2-5b1e-7c3a-9d5e-0a6f6f3f2c11.1
    unhurried deliveries redeliver --destination webhook:app --since 2h
    unhurried deliveries redeliver --destination webhook:app --since 2h --yes
    """
    if (delivery_id is None) == (destination is None):
        raise CliError("name one delivery by its id, or those of a --destination", USAGE)
    if delivery_id is not None:
        if state or since:
            raise CliError("--state and --since go with --destination", USAGE)
        return _one(delivery_id, json, socket)
    assert destination is not None
    destination = full_name(destination)
    states, from_ = state or ["dead"], moment(since)
    with daemon(socket) as client:
        count = client.redeliver_many(destination, states=states, since=from_, dry_run=not yes)
    if json:
        json_out({"deliveries": count, "dry_run": not yes})
    elif not count:
        print("there are no such deliveries")
    elif yes:
        print(f"{counted(count, 'result')} delivered again to {destination}")
    else:
        say(f"{count:,} would be delivered again to {destination}; nothing was done yet: repeat it with --yes")
    return OK


def _next(one: Mapping[str, Any]) -> str:
    """When a pending one is tried; the breaker of its destination may still hold it back."""
    if one["state"] != "pending":
        return ""
    when = age(one["due_at"])
    return when if when.startswith("in ") else "due"


def _one(delivery_id: str, json: bool, socket: Any) -> int:
    from unhurried.client import QueueError

    with daemon(socket) as client:
        try:
            made = client.redeliver(delivery_id)
        except QueueError as error:
            if error.status != 409:
                raise
            raise CliError(str(error), NO) from None
    if json:
        json_out(made)
    else:
        print(f"{made['id']} takes its place and is {made['state']}")
    return OK
