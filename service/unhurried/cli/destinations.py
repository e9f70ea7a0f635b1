"""``unhurried destinations list|show|add|pause|resume|test``."""

import base64
import os
import secrets as chance
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from unhurried.cli.connection import JsonOption, SocketOption, daemon
from unhurried.cli.exits import CANNOT_CREATE, NO, OK, CliError
from unhurried.cli.output import age, counted, fields, json_line, json_out, say, table

WEBHOOK: Final = "webhook:"
SECRET_BYTES: Final = 32
DestinationName = Annotated[str, typer.Argument(metavar="NAME", help="webhook:NAME, or only NAME; or pull:NAME.")]


def list_(
    kind: Annotated[str | None, typer.Option(help="Only `webhook`, or only `pull`.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """List destinations: where results go, and what waits there.

    --json gives one object a line.

    \b
    unhurried destinations list
    unhurried destinations list --kind webhook
    """
    found: list[dict[str, Any]] = []
    after: str | None = None
    with daemon(socket) as client:
        while len(found) < limit:
            page, after = client.destinations(kind=kind, limit=min(1_000, limit - len(found)), after=after)
            found += page
            if after is None:
                break
    if json:
        for one in found:
            json_line(one)
        return OK
    rows = [
        (one["name"], one["state"].replace("_", " "), _waiting(one), one["deliveries"].get("delivered", 0),
         one["deliveries"].get("dead", 0), one["origin"], _why(one))
        for one in found
    ]  # fmt: skip
    columns = ("name", "state", "waiting", "delivered", "dead", "to", "detail")
    table(columns, rows, right=("waiting", "delivered", "dead"))
    if after is not None:
        say(f"there are more: --limit {limit * 10}")
    return OK


def show(name: DestinationName, json: JsonOption = False, socket: SocketOption = None) -> int:
    """Show one destination, with its whole URL, and its last events.

    \b
    unhurried destinations show webhook:app
    """
    with daemon(socket) as client:
        found = client.destination(full_name(name))
        events = client.events(found["name"], limit=10)
    if json:
        json_out({**found, "events": events})
        return OK
    _tell(found)
    for event in events:
        print(f"  {event['at']}  {event['what']}  {event.get('detail') or ''}".rstrip())
    return OK


def add(
    name: DestinationName,
    url: Annotated[str, typer.Argument(metavar="URL", help="https://…, http://…, or http+unix://%2Fpath%2Fto.sock/…")],
    secret: Annotated[
        list[str] | None, typer.Option(help="Where the daemon finds a secret: env:NAME or file:/path. May be repeated.")
    ] = None,
    generate_secret: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a new secret there (mode 0600) and use it.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=100, help="Attempts under way at once; else as the daemon's settings say.")
    ] = None,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Add a webhook, or change it: results go there by themselves, signed.

    Each attempt is signed with every secret that is named, so that one can replace another. Only references are
    stored; the daemon reads the secret itself at each attempt, and must be able to. Over a network a secret is
    required; an application's own socket may do without.

    \b
    unhurried destinations add app https://app.example.com/results --generate-secret /etc/unhurried/app.secret
    unhurried destinations add app https://app.example.com/results --secret env:APP_NEW --secret env:APP_OLD
    unhurried destinations add app http+unix://%2Frun%2Fapp%2Fapp.sock/results
    """
    full = full_name(name)
    references = list(secret or ())
    if generate_secret is not None:
        references.insert(0, f"file:{_generated(generate_secret)}")
    from unhurried.client import DaemonDown, DaemonForbidden, QueueError

    with daemon(socket) as client:
        try:
            found = client.put_webhook(full, url, secrets=references, concurrency=concurrency)
        except (QueueError, DaemonDown, DaemonForbidden):
            if generate_secret is not None:
                generate_secret.unlink()  # nothing names it
            raise
    if json:
        json_out(found)
        return OK
    _tell(found)
    print(f'\nRequests with "deliver_to": "{full}" are delivered there. Try it: unhurried destinations test {full}')
    if generate_secret is not None:
        print(f"Give the receiver the secret in {generate_secret}; it is nowhere else.")
    if references:
        print(
            "It verifies with any library of Standard Webhooks: standardwebhooks.Webhook(secret).verify(body, headers)"
        )
    return OK


def pause(
    name: DestinationName,
    reason: Annotated[str | None, typer.Option(help="Why, for whoever looks later.")] = None,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Attempt nothing at a webhook until it is resumed.

    Its results wait, and use up no attempt.

    \b
    unhurried destinations pause webhook:app --reason "it moves"
    """
    full = full_name(name)
    with daemon(socket) as client:
        paused = client.pause_destination(full, reason)
    if json:
        json_out({"paused": paused})
    else:
        print(f"{full} is paused" if paused else f"{full} was paused before")
    return OK


def resume(name: DestinationName, json: JsonOption = False, socket: SocketOption = None) -> int:
    """End the pause of a webhook, whoever made it, and try it at once.

    One that is failing, and not paused, is tried once now; its failures are forgotten when that works.

    \b
    unhurried destinations resume webhook:app
    """
    full = full_name(name)
    with daemon(socket) as client:
        resumed = client.resume_destination(full)
    if json:
        json_out({"resumed": resumed})
    elif not resumed:
        raise CliError(f"{full} is not paused, and no attempt is put off", NO)
    else:
        print(f"{full} is tried now")
    return OK


def try_out(name: DestinationName, json: JsonOption = False, socket: SocketOption = None) -> int:
    """Send one signed test event to a webhook, now, and say what came of it.

    Its type is `unhurried.test`; it goes beside the queue, paused or not. Exit 1 if it did not arrive.

    \b
    unhurried destinations test webhook:app
    """
    full = full_name(name)
    with daemon(socket) as client:
        told = client.test_destination(full)
    arrived = told["outcome"] == "delivered"
    if json:
        json_out(told)
    else:
        answered = f"{told['status']} after {told['ms']:,} ms" if told["status"] else f"nothing after {told['ms']:,} ms"
        fields(
            [
                ("destination", full),
                ("outcome", told["outcome"]),
                ("answer", None if told["outcome"] == "misconfigured" else answered),
                ("detail", told["detail"]),
                ("what to do", told["advice"]),
            ]
        )
    return OK if arrived else NO


def full_name(name: str) -> str:
    """``orders`` is short for ``webhook:orders``."""
    return name if ":" in name else WEBHOOK + name


def _waiting(one: Mapping[str, Any]) -> int:
    counts = one["deliveries"]
    return int(counts.get("pending", 0) + counts.get("sending", 0))


def _why(one: Mapping[str, Any]) -> str:
    if one["pause_reason"]:
        return str(one["pause_reason"])
    if not one["failures"]:
        return ""
    again = f", tried again {age(one['open_until'])}" if one["open_until"] else ""
    return f"{counted(one['failures'], 'failure')} in a row for {age(one['failing_since'])}{again}"


def _next(one: Mapping[str, Any]) -> str | None:
    """When something is due there, and it may be tried."""
    due_at: str | None = one["next_due_at"]
    if due_at is None:
        return None
    if one["paused_at"] is not None:
        return f"once it is resumed (unhurried destinations resume {one['name']})"
    at = max(due_at, one["open_until"] or due_at)
    when = age(at)
    return f"{at} ({when})" if when.startswith("in ") else f"now, due since {at}"


def _tell(one: Mapping[str, Any]) -> None:
    fields(
        [
            ("destination", one["name"]),
            ("state", one["state"].replace("_", " ")),
            ("detail", _why(one)),
            ("url", one["url"]),
            ("secrets", ", ".join(one["secrets"])),
            ("concurrency", one["concurrency"]),
            ("deliveries", ", ".join(f"{n:,} {state}" for state, n in sorted(one["deliveries"].items()))),
            ("next attempt", _next(one)),
            ("since", one["created_at"]),
        ]
    )


def _generated(path: Path) -> Path:
    """Write a new secret, never over anything that is there."""
    encoded = base64.b64encode(chance.token_bytes(SECRET_BYTES)).decode()
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise CliError(f"{path} is there already; use it with --secret file:{path.absolute()}", CANNOT_CREATE) from None
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}", CANNOT_CREATE) from None
    with os.fdopen(file, "w") as written:
        written.write(f"whsec_{encoded}\n")
    return path.absolute()
