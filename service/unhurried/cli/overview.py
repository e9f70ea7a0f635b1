"""The daemon on one screen: what is wrong and what to do, then queues, batches, destinations, and the process.

``status`` prints it once, ``top`` draws it again and again. All of it is a pure function of what ``/queue/status``
answers, so that both show the same, also of a database without a daemon.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from unhurried.cli.concerns import concerns
from unhurried.cli.output import age, duration, size, table_lines

Style = Literal["", "head", "alert", "dim"]
STATES: Final = ("queued", "assigned", "submitted", "succeeded", "errored", "expired", "canceled")
OPEN_STATES: Final = ("queued", "assigned", "submitted")
LATE_S: Final = 180.0
"""From here on a loop that is not judged is told all the same: it may be busy with a large batch."""


@dataclass(frozen=True)
class Line:
    text: str
    style: Style = ""


@dataclass(frozen=True)
class Room:
    """How large a table may be. ``columns_max``: characters beyond which it does without what is empty or 0."""

    rows_max: int = 12
    columns_max: int | None = None


def overview(told: Mapping[str, Any], now: datetime, room: Room) -> Iterator[Line]:
    """The lines from the most important on, so that a small screen may show the first ones only."""
    yield from _concerns(told, now)
    yield from _queues(told, now, room)
    yield from _batches(told, now, room)
    yield from _destinations(told, now, room)
    yield Line("")
    yield from _facts(told, now)


def _concerns(told: Mapping[str, Any], now: datetime) -> Iterator[Line]:
    for concern in concerns(told, now):
        yield Line(f"! {concern.says}", "alert")
        yield Line(f"  → {concern.do}")


def _queues(told: Mapping[str, Any], now: datetime, room: Room) -> Iterator[Line]:
    counts: Mapping[str, Mapping[str, int]] = told["requests"]
    more = {queue["name"]: queue for queue in told.get("queues") or ()}
    names = sorted(counts, key=lambda name: (-sum(counts[name].get(state, 0) for state in OPEN_STATES), name))
    if not names:
        yield Line("no requests yet")
        return
    rows = [
        (
            name,
            *(counts[name].get(state, 0) for state in STATES),
            age(more.get(name, {}).get("oldest_open_at"), now),
            age(more.get(name, {}).get("nearest_deadline"), now),
        )
        for name in names
    ]
    columns = ("queue", *STATES, "oldest", "deadline")
    yield from _table(columns, rows, room, "`unhurried queues list`", right=(*STATES, "oldest"))


def _batches(told: Mapping[str, Any], now: datetime, room: Room) -> Iterator[Line]:
    batches: Sequence[Mapping[str, Any]] = told.get("open_batches") or ()
    if not batches:
        return
    # What is in doubt comes first, then the oldest: the newest are rarely the trouble.
    ordered = sorted(batches, key=lambda batch: (batch["state"] != "unknown", batch["created_at"]))
    columns = ("open batch", "state", "queue", "model", "requests", "open", "age", "expires", "upstream id", "detail")
    rows = [
        (b["id"], b["state"], b["queue"], b["model"], b["requests"], b["members_open"],
         age(b["submit_started_at"] or b["created_at"], now), age(b["upstream_expires_at"], now), b["upstream_id"],
         b["detail"])
        for b in ordered
    ]  # fmt: skip
    yield from _table(columns, rows, room, "`unhurried batches list --open`", right=("requests", "open", "age"))


def _destinations(told: Mapping[str, Any], now: datetime, room: Room) -> Iterator[Line]:
    """Those that wait for something, or are in trouble."""
    rows = []
    for to in told.get("destinations") or ():
        waiting = to["deliveries"].get("pending", 0) + to["deliveries"].get("sending", 0)
        dead, state = to["deliveries"].get("dead", 0), _destination_state(to, now)
        if waiting or dead or state:
            rows.append(
                (to["name"], waiting, to["deliveries"].get("delivered", 0), dead, age(to["oldest_at"], now), state)
            )
    if rows:
        rows.sort(key=lambda row: (not row[5], -row[1], row[0]))
        columns = ("destination", "waiting", "delivered", "dead", "oldest", "state")
        yield from _table(columns, rows, room, "`unhurried destinations list`", right=columns[1:5])


def _destination_state(to: Mapping[str, Any], now: datetime) -> str:
    if to["paused_at"] is not None:
        return f"paused: {to['pause_reason'] or 'no reason given'}"
    if to["open_until"] is not None and datetime.fromisoformat(to["open_until"]) > now:
        return f"breaker open, tried again {age(to['open_until'], now)}"
    if to["failures"]:
        return f"failing for {age(to['failing_since'], now)}"
    return ""


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], room: Room, more: str, *, right: Sequence[str]
) -> Iterator[Line]:
    lines = table_lines(columns, rows[: room.rows_max], right=right)
    if room.columns_max is not None and len(lines[0]) > room.columns_max:
        used = [place for place in range(len(columns)) if any(row[place] for row in rows)]
        shown = [[row[place] for place in used] for row in rows[: room.rows_max]]
        lines = table_lines([columns[place] for place in used], shown, right=right)
    yield Line("")
    yield Line(lines[0], "head")
    yield from map(Line, lines[1:])
    if len(rows) > room.rows_max:
        yield Line(f"and {len(rows) - room.rows_max:,} more: {more}", "dim")


def _facts(told: Mapping[str, Any], now: datetime) -> Iterator[Line]:
    account, process = told.get("account") or {}, told.get("daemon") or {}
    upstream = process.get("upstream") or {}
    where = upstream.get("base_url") or account.get("base_url") or "not known yet"
    simulated = " (the simulator)" if upstream.get("simulator") else ""
    facts = {
        "upstream": f"{where}{simulated}, account {'paused' if account.get('paused') else 'open'}",
        "waiting": _waiting(told, now),
        "to hand over": _deliveries(told, now),
        "storage": _storage(told.get("storage") or {}),
        "daemon": _process(process) if process else _silent(told.get("held_by")),
        "loops": _loops(process),
    }
    width = max(map(len, facts))
    yield from (Line(f"{name:<{width}}  {text}") for name, text in facts.items() if text)


def _silent(held_by: str | None) -> str:
    return f"pid {held_by} holds the database and does not answer" if held_by else "not running"


def _waiting(told: Mapping[str, Any], now: datetime) -> str:
    if not told.get("waiting_bytes"):
        return ""
    oldest = age(told.get("oldest_queued_at"), now)
    return f"{size(told['waiting_bytes'])} to be sent" + (f", the oldest for {oldest}" if oldest else "")


def _deliveries(told: Mapping[str, Any], now: datetime) -> str:
    oldest = age(told.get("oldest_delivery_at"), now)
    return f"{told.get('deliveries_pending', 0):,} results" + (f", the oldest for {oldest}" if oldest else "")


def _storage(storage: Mapping[str, int]) -> str:
    if not storage:
        return ""
    database = f"{size(storage['database_bytes'])} ({size(storage['free_bytes'])} of it free)"
    disk = f"{size(storage['disk_free_bytes'])} of {size(storage['disk_bytes'])} free on its disk"
    return f"database {database}, log {size(storage['wal_bytes'])}, {disk}"


def _process(process: Mapping[str, Any]) -> str:
    memory, stall = process.get("memory") or {}, process.get("stall") or {}
    parts = [f"version {process.get('version')}", f"pid {process.get('pid')}"]
    if (uptime := process.get("uptime_s")) is not None:
        parts.append(f"up {duration(uptime)}")
    if (rss := memory.get("rss_bytes")) is not None:
        parts.append(f"{size(rss)} (peak {size(memory.get('rss_peak_bytes') or rss)})")
    if (worst := stall.get("max_ms")) is not None:
        parts.append(f"longest stall {worst:.0f} ms")
    return ", ".join(parts)


def _loops(process: Mapping[str, Any]) -> str:
    late = {name: s for name, s in (process.get("loops") or {}).items() if s > LATE_S}
    return ", ".join(f"{name} busy for {duration(s)}" for name, s in sorted(late.items()))
