"""``unhurried status``: the whole queue at a glance."""

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from unhurried.cli.connection import JsonOption, NotRunning, SocketOption, daemon, database_path
from unhurried.cli.exits import OK, UNREACHABLE, CliError
from unhurried.cli.output import json_out, say
from unhurried.cli.overview import Room, overview

ANSI: Final = {"head": "1", "alert": "1;31", "dim": "2"}


def status(json: JsonOption = False, socket: SocketOption = None) -> int:
    """Show the queue at a glance.

    What is wrong and what to do about it, then requests by queue and state, open batches, destinations that wait or
    fail, and the daemon itself. While it is down this is read from the database of the settings, and the exit code is
    69 all the same.

    \b
    unhurried status --json
    """
    try:
        with daemon(socket) as client:
            told = client.status()
    except NotRunning as error:
        path = database_path()
        if path is None:
            raise
        told = _peek(path, error)
        say(f"unhurried: {error}")
        say(f"unhurried: the daemon is not running; this is what the database says ({path})")
        code = UNREACHABLE
    else:
        code = OK
    if json:
        json_out(told)
    else:
        _show(told)
    return code


def _peek(path: Path, down: CliError) -> dict[str, Any]:
    """What the daemon would tell, but for itself: that is null, and ``database`` says where this comes from."""
    import asyncio

    import msgspec

    from unhurried.store import StoreUnusable
    from unhurried.store.sqlite.peek import peek

    try:
        status = asyncio.run(peek(path))
    except StoreUnusable as unusable:
        raise CliError(f"{down}. Nor can the database be read: {unusable}", UNREACHABLE) from None
    told: dict[str, Any] = _with_times(msgspec.to_builtins(status))
    for batch in told["open_batches"]:
        del batch["attempts_by_state"], batch["events"]  # the daemon tells them of a single batch only
    return {**told, "daemon": None, "database": str(path)}


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
