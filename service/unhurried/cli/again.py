"""``unhurried requests retry`` and ``unhurried requests erase``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from unhurried.cli import completion, moments
from unhurried.cli.connection import JsonOption, SocketOption, daemon, explain
from unhurried.cli.exits import NO, OK, USAGE, CliError
from unhurried.cli.output import json_out, say, table

if TYPE_CHECKING:
    from unhurried.client import Client


NOT_YET: Final = "it is in a batch that is not finished: cancel it, wait until upstream has answered, and erase it then"


def retry(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="These, at once.", autocompletion=completion.requests)
    ] = None,
    queue: Annotated[str | None, typer.Option(help="Those of this queue.", autocompletion=completion.queues)] = None,
    model: Annotated[str | None, typer.Option(help="Those of this model.", autocompletion=completion.models)] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="errored, expired, canceled; may be repeated. Else errored and expired.")
    ] = None,
    error: Annotated[str | None, typer.Option(help="Those with this type of error, such as overloaded_error.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Those that ended then or later: 2h, 3d, 2026-11-22T08:00:00Z.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All that were errored or expired.")] = False,
    max_wait: Annotated[
        float | None, typer.Option(min=1, help="Due in so many seconds; else as the queue says.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this it is only counted.")] = False,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Send requests again that came to no good end.

    By id at once. By a filter it first says how many they are, and does nothing; with --yes it queues them again. Each
    begins a new generation with all its attempts; its old result is gone, its old attempts stay on record. What was
    canceled is left out unless --state names it. Cut short at any moment, run it again: it goes on with the rest.

    \b
    unhurried requests retry 0198f0c2-5b1e-7c3a-9d5e-0a6f6f3f2c11
    unhurried requests retry --queue labels --since 2h
    unhurried requests retry --queue labels --since 2h --yes
    """
    named = {"queue": queue, "model": model, "states": state, "error_type": error, "since": moments.since(since)}
    filter = {name: value for name, value in named.items() if value}
    if bool(ids) == bool(filter or all_):
        raise CliError("name the requests by their ids, or by a filter, or say --all", USAGE)
    with daemon(socket) as client:
        if ids:
            return _by_id(client, ids, max_wait, json)
        told = _by_filter(client, filter, max_wait, dry_run=not yes)
        if queue is not None and not told["found"]:
            client.queue(queue)  # raises, with the names of those that there are
    if json:
        json_out(told)
    elif not told["found"]:
        print("there are no such requests")
    else:
        columns = ("queue", "model", "state", "error", "requests")
        rows = [
            (one["queue"], one["model"], one["state"], one["error_type"], one["requests"]) for one in told["groups"]
        ]
        table(columns, rows, right=("requests",))
        if yes:
            print(f"{told['retried']:,} of {told['found']:,} were queued again")
        else:
            say(f"{told['found']:,} would be queued again; nothing was done yet: repeat it with --yes")
    return OK


def erase(
    ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="The requests.", autocompletion=completion.requests)
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this it is only said what would go.")] = False,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Take the contents of requests out, for good.

    Params, result, metadata, custom_id and idempotency key go; that there was a request stays, with its times and its
    state. One that is queued is canceled. One that has been sent cannot be erased before upstream has answered: cancel
    it first. Backups of the database, and what was delivered, are beyond reach.

    \b
    unhurried requests erase 0198f0c2-5b1e-7c3a-9d5e-0a6f6f3f2c11 --yes
    """
    from unhurried.client import QueueError

    failed = 0
    told: list[dict[str, Any]] = []
    with daemon(socket) as client:
        for id_ in ids:
            try:
                if yes:
                    told.append(client.erase(id_))
                elif (view := _erasable(client, id_)) is not None:
                    told.append(view)
                else:
                    failed += 1
                    say(f"unhurried: request {id_} cannot be erased now: {NOT_YET}")
            except QueueError as error:
                if error.status not in (404, 409):
                    raise
                failed += 1
                say(f"unhurried: {explain(error)}")
    if json:
        json_out(told)
    elif not yes:
        for view in told:
            print(f"{view['id']}  {view['state']}  {view['queue']}  {view['params_bytes']:,} bytes of params")
        if told:
            say("nothing was erased yet: repeat it with --yes")
    else:
        _tell_erased(told)
    return NO if failed else OK


def _erasable(client: "Client", id_: str) -> dict[str, Any] | None:
    """The request, unless upstream owes an answer for it: then the daemon would refuse."""
    view = client.get(id_)
    owed = view["state"] in ("assigned", "submitted") or any(one["state"] == "open" for one in client.attempts(id_))
    return None if owed else view


def _tell_erased(told: Sequence[Mapping[str, Any]]) -> None:
    for one in told:
        print(f"{one['request']['id']}  erased")
    if not all(one["overwritten"] for one in told):
        say("somebody reads the database: the bytes leave its write-ahead log as soon as nobody does")


def _by_id(client: "Client", ids: Sequence[str], max_wait: float | None, json: bool) -> int:
    from unhurried.client import QueueError

    failed = 0
    told = []
    for id_ in ids:
        try:
            told.append(client.retry(id_, max_wait=max_wait))
        except QueueError as error:
            if error.status not in (404, 409):
                raise
            failed += 1
            say(f"unhurried: {explain(error)}")
    if json:
        json_out(told)
    else:
        for view in told:
            print(f"{view['id']}  {view['state']} again, generation {view['generation']}")
    return NO if failed else OK


def _by_filter(client: "Client", filter: Mapping[str, Any], max_wait: float | None, *, dry_run: bool) -> dict[str, Any]:
    """All the steps added up."""
    groups: Counter[tuple[str, str, str, str | None]] = Counter()
    found = retried = 0
    cursor: str | None = None
    while True:
        told = client.retry_many(dry_run=dry_run, max_wait=max_wait, cursor=cursor, **filter)
        found, retried, cursor = found + told["found"], retried + told["retried"], told["cursor"]
        for one in told["groups"]:
            groups[one["queue"], one["model"], one["state"], one["error_type"]] += one["requests"]
        if cursor is None:
            break
    shown = [
        {"queue": queue, "model": model, "state": state, "error_type": error, "requests": n}
        for (queue, model, state, error), n in groups.most_common()
    ]
    return {"dry_run": dry_run, "found": found, "retried": retried, "groups": shown}
