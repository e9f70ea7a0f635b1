"""The alarms that are on, so that each is told once whatever restarts lie between its beginning and its end."""

import sqlite3
from collections.abc import Sequence

from unhurried.clock import Ms
from unhurried.domain.alarms import Alarm, AlarmName
from unhurried.store.sqlite.tx import Tx


def alarms(db: sqlite3.Connection) -> list[Alarm]:
    """Those that are on, by name."""
    rows = db.execute("select name, entity_id, since, detail from alarms order by name, entity_id").fetchall()
    known = {name.value for name in AlarmName}
    return [
        Alarm(name=AlarmName(name), entity_id=entity_id, since=since, detail=detail)
        for name, entity_id, since, detail in rows
        if name in known  # else of a newer version, before a downgrade
    ]


def told(some: Sequence[Alarm]) -> set[tuple[str, str, str]]:
    """What is said of them: two looks that say the same need no write."""
    return {(alarm.name.value, alarm.entity_id, alarm.detail) for alarm in some}


def record(tx: Tx, current: Sequence[Alarm], now: Ms) -> tuple[list[Alarm], list[Alarm]]:
    """Make these the ones that are on. Returns those that have begun and those that have ended; one event each."""
    before = {(alarm.name, alarm.entity_id): alarm for alarm in alarms(tx.db)}
    on = {(alarm.name, alarm.entity_id): alarm for alarm in current}
    begun = [alarm for key, alarm in on.items() if key not in before]
    ended = [alarm for key, alarm in before.items() if key not in on]
    tx.db.executemany(
        "insert into alarms (name, entity_id, since, detail) values (?, ?, ?, ?)"
        " on conflict do update set detail = excluded.detail",
        [(alarm.name.value, alarm.entity_id, alarm.since, alarm.detail) for alarm in on.values()],
    )
    tx.db.executemany(
        "delete from alarms where name = ? and entity_id = ?",
        [(alarm.name.value, alarm.entity_id) for alarm in ended],
    )
    for alarm in begun:
        tx.event(now, "keeper", *_about(alarm), f"alarm.{alarm.name}", detail=alarm.detail)
    for alarm in ended:
        tx.event(now, "keeper", *_about(alarm), f"alarm_over.{alarm.name}")
    return begun, ended


def _about(alarm: Alarm) -> tuple[str, str]:
    """The entity of its event and the id: the first word of its name says of what kind it is."""
    return (alarm.name.partition(".")[0], alarm.entity_id) if alarm.entity_id else ("daemon", "daemon")


def paused_since(db: sqlite3.Connection) -> Ms | None:
    """Since when the account has been paused, however often the pause was renewed; None when it is open.

    The row of the account has the last pause only: each refused attempt begins another.
    """
    row = db.execute("select base_url, paused_at from account where paused_at is not null").fetchone()
    if row is None:
        return None
    first: Ms | None = db.execute(
        "select min(at) from events where entity_id = ?1 and what = 'account.paused' and seq > coalesce("
        "(select max(seq) from events where entity_id = ?1 and what = 'account.resumed'), 0)",
        (row[0],),
    ).fetchone()[0]
    return first if first is not None else row[1]
