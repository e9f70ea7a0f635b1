"""``unhurried status``: the whole queue at a glance."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from unhurried.cli.connection import JsonOption, NotRunning, SocketOption, daemon, database_path
from unhurried.cli.exits import OK, UNREACHABLE, CliError
from unhurried.cli.output import age, duration, fields, json_out, say, size, table

STATES: Final = ("queued", "assigned", "submitted", "succeeded", "errored", "expired", "canceled")


def status(json: JsonOption = False, socket: SocketOption = None) -> int:
    """Show the queue at a glance.

    Requests by queue and state, open batches, the account, and what waits to be handed over. While the daemon is down
    it is read from the database of the settings, and the exit code is 69 all the same.

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
        case int() if name.endswith("_at") or name in ("nearest_deadline", "paused_until"):
            return rfc3339(Ms(value))
        case _:
            return value


def _show(told: Mapping[str, Any]) -> None:
    queues: Mapping[str, Mapping[str, int]] = told["requests"]
    if queues:
        rows = [(queue, *[counts.get(state, 0) for state in STATES]) for queue, counts in sorted(queues.items())]
        table(("queue", *STATES), rows, right=STATES)
    else:
        print("no requests yet")
    if told["open_batches"]:
        print()
        columns = ("open batch", "state", "queue", "model", "requests", "age", "expires", "upstream id", "detail")
        rows = [
            (b["id"], b["state"], b["queue"], b["model"], b["requests"], age(b["submit_started_at"] or b["created_at"]),
             age(b["upstream_expires_at"]), b["upstream_id"], b["detail"])
            for b in told["open_batches"]
        ]  # fmt: skip
        table(columns, rows, right=("requests", "age"))
    print()
    account, process = told.get("account") or {}, told.get("daemon") or {}
    upstream, memory, stall = process.get("upstream") or {}, process.get("memory") or {}, process.get("stall") or {}
    simulated = " (the simulator)" if upstream.get("simulator") else ""
    fields(
        [
            ("upstream", f"{upstream.get('base_url') or account.get('base_url') or ''}{simulated}"),
            ("account", _account(account)),
            ("paused queues", ", ".join(told.get("paused_queues") or ())),
            ("waiting", size(told["waiting_bytes"]) if told.get("waiting_bytes") else None),
            ("oldest queued", age(told.get("oldest_queued_at"))),
            ("nearest deadline", age(told.get("nearest_deadline"))),
            ("to hand over", _deliveries(told)),
            ("daemon", _process(process, memory, stall) if process else "not running"),
        ]
    )


def _account(account: Mapping[str, Any]) -> str:
    if not account.get("paused"):
        return "open"
    until = account.get("paused_until")
    end = f"until {until}" if until else "until `unhurried resume`"
    return f"PAUSED {end}: {account.get('pause_reason') or 'no reason given'}"


def _deliveries(told: Mapping[str, Any]) -> str:
    oldest = age(told.get("oldest_delivery_at"))
    return f"{told.get('deliveries_pending', 0):,} results" + (f", the oldest for {oldest}" if oldest else "")


def _process(process: Mapping[str, Any], memory: Mapping[str, Any], stall: Mapping[str, Any]) -> str:
    parts = [f"version {process.get('version')}", f"pid {process.get('pid')}"]
    if (uptime := process.get("uptime_s")) is not None:
        parts.append(f"up {duration(uptime)}")
    if (rss := memory.get("rss_bytes")) is not None:
        parts.append(f"{size(rss)} (peak {size(memory.get('rss_peak_bytes') or rss)})")
    if (worst := stall.get("max_ms")) is not None:
        parts.append(f"longest stall {worst:.0f} ms")
    return ", ".join(parts)
