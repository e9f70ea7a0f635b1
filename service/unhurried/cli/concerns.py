"""What is wrong, from what the daemon tells of itself, and what to do about it: the top of ``unhurried status``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from unhurried.cli.output import age

UNKNOWN_S: Final = 1_800.0
"""A doubt that takes longer than the settlement needs without proof."""
ENDED_S: Final = 7_200.0
OVERDUE_S: Final = 60.0

DO: Final = {
    "batch.expires_soon": "nothing: what expires is sent again",
    "batch.results_vanish_soon": "why can its results not be read? `unhurried batches show {about}`",
    "destination.results_unread": "does the application pull from {about}, and confirm what it pulled?",
    "destination.failing": "mend the receiver, then `unhurried destinations resume {about}`",
    "destination.dead_deliveries": "mend it, then `unhurried deliveries redeliver --destination {about} --state dead`",
    "queue.nearly_full": "callers are refused when it is full: is something not being sent, or the limit too low?",
    "account.paused_long": "mend the key, the limit or the bill, then `unhurried resume`",
    "disk.low": "make room; when it is full, new requests are refused and nothing is lost",
    "database.large": "shorten the retention of a queue, or give it a larger disk",
    "database.log_large": "close the sqlite3 shell that has a transaction open, or the backup that does not end",
}
"""For each alarm of the daemon."""


@dataclass(frozen=True)
class Concern:
    """``says`` what is wrong, ``do`` is the next step."""

    says: str
    do: str


def concerns(told: Mapping[str, Any], now: datetime) -> list[Concern]:
    """The most urgent first; none when all is well. ``told`` is what ``/queue/status`` answers."""
    found = [*_process(told), *_account(told.get("account") or {}), *_batches(told, now), *_queues(told, now)]
    said = {about for about, _ in found}
    alarms = [(about, concern) for about, concern in _alarms(told.get("alarms") or (), now) if about not in said]
    return [concern for _, concern in (*found, *alarms)]


About = tuple[str, str]
"""What a concern is about, in the words of the alarms: a name and an id. An alarm about the same is not said again."""


def _process(told: Mapping[str, Any]) -> Iterator[tuple[About, Concern]]:
    process = told.get("daemon")
    if process is None:
        yield (
            ("daemon", ""),
            Concern("the daemon is not running", "start it; what was accepted is safe in the database"),
        )
        return
    if hanging := process.get("hanging"):
        says = f"hangs: {', '.join(hanging)} has not finished a step for minutes"
        yield ("daemon", "hangs"), Concern(says, "look at the disk, then restart the daemon: it recovers")


def _account(account: Mapping[str, Any]) -> Iterator[tuple[About, Concern]]:
    if not account.get("paused"):
        return
    until = account.get("paused_until")
    end = f"until {until}" if until else "until `unhurried resume`"
    says = f"the account is PAUSED {end}: {account.get('pause_reason') or 'no reason given'}"
    do = "mend the key, the limit or the bill, then `unhurried resume`; it also tries again by itself"
    yield ("account.paused_long", str(account.get("base_url", ""))), Concern(says, do)


def _batches(told: Mapping[str, Any], now: datetime) -> Iterator[tuple[About, Concern]]:
    states: Mapping[str, Mapping[str, Any]] = told.get("batches") or {}
    unknown, ended = states.get("unknown") or {}, states.get("ended") or {}
    if _older(unknown.get("oldest_at"), UNKNOWN_S, now):
        says = f"of {unknown['batches']:,} unknown batches nobody knows whether upstream has them, the oldest for"
        says = f"{says} {age(unknown['oldest_at'], now)}"
        yield ("batch.unknown", ""), Concern(says, "can upstream be listed? never send its requests by hand")
    if _older(ended.get("oldest_at"), ENDED_S, now):
        says = f"results are not all stored of a batch that ended {age(ended['oldest_at'], now)} ago"
        do = "`unhurried batches list --open` has the reason; they are read again by themselves"
        yield ("batch.ended", ""), Concern(says, do)


def _queues(told: Mapping[str, Any], now: datetime) -> Iterator[tuple[About, Concern]]:
    for queue in told.get("queues") or ():
        name = queue["name"]
        if queue["paused_at"] is not None:
            reason = queue["pause_reason"] or "no reason given"
            says = f"queue {name} is paused for {age(queue['paused_at'], now)}: {reason}"
            yield ("queue.paused", name), Concern(says, f"`unhurried queues resume {name}` when it may go on")
        elif _older(queue["nearest_deadline"], OVERDUE_S, now):
            says = f"queue {name}: a deadline passed {age(queue['nearest_deadline'], now)} ago, and it is not sent yet"
            do = f"`unhurried flush --queue {name}` if nothing above explains it; or upstream's queue is full"
            yield ("queue.overdue", name), Concern(says, do)


def _alarms(alarms: Sequence[Mapping[str, Any]], now: datetime) -> Iterator[tuple[About, Concern]]:
    for alarm in alarms:
        about = alarm["entity_id"]
        subject = f" ({about})" if about else ""
        says = f"{alarm['name']}{subject} for {age(alarm['since'], now)}: {alarm['detail']}"
        do = DO.get(alarm["name"], "docs/operations.md").format(about=about)
        yield (alarm["name"], about), Concern(says, do)


def _older(moment: str | None, seconds: float, now: datetime) -> bool:
    return moment is not None and (now - datetime.fromisoformat(moment)).total_seconds() > seconds
