"""``unhurried status``: the whole queue at a glance."""

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from unhurried.cli.connection import START, JsonOption, NoAnswer, SocketOption, daemon, database_path, load_settings
from unhurried.cli.exits import OK, UNREACHABLE, USAGE, CliError
from unhurried.cli.output import json_out, say
from unhurried.cli.overview import Room, overview

ANSI: Final = {"head": "1", "alert": "1;31", "dim": "2"}


def status(json: JsonOption = False, socket: SocketOption = None) -> int:
    """Show the queue at a glance.

    What is wrong and what to do about it, then requests by queue and state, open batches, destinations that wait or
    fail, and the daemon itself. While it does not answer this is read from the database of the settings, and the exit
    code is 69 all the same.

    \b
    unhurried status --json
    """
    try:
        with daemon(socket) as client:
            told = client.status()
    except NoAnswer as error:
        told = _peek(error)
        code = UNREACHABLE
    else:
        code = OK
    if json:
        json_out(told)
    else:
        _show(told)
    return code


def _peek(down: NoAnswer) -> dict[str, Any]:
    """What the daemon would tell, but for itself: that is null, ``held_by`` is the pid of whoever holds the database,
    and ``database`` says where this comes from. Raises ``CliError`` when that cannot be told either."""
    import asyncio

    import msgspec

    from unhurried.store import StoreUnusable
    from unhurried.store.sqlite.peek import peek
    from unhurried.store.sqlite.place import holder

    try:
        path = database_path(None)
        status = asyncio.run(peek(path))
        held = holder(path)
    except StoreUnusable as unusable:
        raise CliError(f"{down.why}; and the database cannot be read: {unusable}", UNREACHABLE) from None
    except PermissionError as error:
        says = f"{down.why}; and no permission for {error.filename}: run this as the daemon's user"
        raise CliError(says, UNREACHABLE) from None
    except CliError as nowhere:
        if nowhere.code != USAGE:
            raise CliError(f"{down.why}; and {nowhere}", UNREACHABLE) from None
        says = f"{down.why}; nor is there a database at {load_settings().database}"
        do = "set UNHURRIED_SOCKET and UNHURRIED_DATABASE to where they are (`unhurried config` shows them)"
        raise CliError(f"{says}: {do}, or {START}", UNREACHABLE) from None
    if held is None:
        why = "the daemon is not running"
    else:
        why = f"a daemon (pid {held.pid}) holds the database, but does not answer there"
    say(f"unhurried: {down.why}")
    say(f"unhurried: {why}; this is what the database says ({path})")
    told: dict[str, Any] = _with_times(msgspec.to_builtins(status))
    for batch in told["open_batches"]:
        del batch["attempts_by_state"], batch["events"]  # the daemon tells them of a single batch only
    if told["account"] is not None:
        del told["account"]["restored"]  # told of on its own
    return {**told, "daemon": None, "held_by": held and held.pid, "database": str(path)}


def _with_times(value: Any, name: str = "") -> Any:
    """The store's moments as the daemon tells them."""
    from unhurried.clock import Ms, rfc3339

    match value:
        case dict():
            return {key: _with_times(one, key) for key, one in value.items()}
        case list():
            return [_with_times(one) for one in value]
        case int() if name.endswith("_at") or name in (
            "nearest_deadline",
            "paused_until",
            "open_until",
            "failing_since",
            "since",
        ):
            return rfc3339(Ms(value))
        case _:
            return value


def _show(told: Mapping[str, Any]) -> None:
    colors = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    lines = list(overview(told, datetime.now(UTC), Room()))
    while lines and not lines[0].text:
        lines.pop(0)
    for line in lines:
        code = ANSI.get(line.style) if colors else None
        print(f"\x1b[{code}m{line.text}\x1b[0m" if code else line.text)
