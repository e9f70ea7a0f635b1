"""What is wrong, from what the daemon tells of itself, and what to do about it: the top of ``unhurried status``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from unhurried.cli.connection import START
from unhurried.cli.output import age, counted

UNKNOWN_S: Final = 1_800.0
"""A doubt that takes longer than the settlement needs without proof."""
ENDED_S: Final = 7_200.0
OVERDUE_S: Final = 60.0
EXPIRY_S: Final = 7_200.0

DO: Final = {
    "batch.expires_soon": "nothing: what expires is sent again",
    "batch.results_vanish_soon": "why can its results not be read? `unhurried batches show {about}`",
    "destination.results_unread": "does the application pull from {about}, and confirm what it pulled?",
    "destination.failing": "mend the receiver, then `unhurried destinations resume {about}`",
    "destination.dead_deliveries": "mend it, then `unhurried deliveries redeliver --destination {about} --state dead`",
    "queue.nearly_full": "callers are refused when it is full: is something not being sent, or the limit too low?",
    "account.paused_long": "mend the key, the limit or the bill, then `unhurried resume`",
    "database.restored": "wait until what was sent since is found: docs/backup.md",
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
    found = [
        *_process(told),
        *_restored(told),
        *_account(told, now),
        *_batches(told, now),
        *_queues(told, now),
        *_destinations(told, now),
    ]
    said = {about for about, _ in found}
    alarms = [(about, concern) for about, concern in _alarms(told.get("alarms") or (), now) if about not in said]
    return [concern for _, concern in (*found, *alarms)]


About = tuple[str, str]
"""What a concern is about, in the words of the alarms: a name and an id. An alarm about the same is not said again."""


def _process(told: Mapping[str, Any]) -> Iterator[tuple[About, Concern]]:
    process = told.get("daemon")
    if process is None:
        if held_by := told.get("held_by"):
            says = f"a daemon (pid {held_by}) holds the database, but does not answer on this socket"
            do = "set UNHURRIED_SOCKET to its socket, or --socket; if it answers nowhere, look at its log"
        else:
            says, do = "the daemon is not running", f"{START}; what was accepted is safe in the database"
        yield ("daemon", ""), Concern(says, do)
        return
    if hanging := process.get("hanging"):
        says = f"hangs: {', '.join(hanging)} has not finished a step for minutes"
        yield ("daemon", "hangs"), Concern(says, "look at the disk, then restart the daemon: it recovers")
    if draining := process.get("draining"):
        says = f"the daemon is DRAINING since {draining['since']} by {draining['actor']}: it accepts nothing new"
        yield ("daemon", "draining"), Concern(says, "`unhurried undrain` to accept again")


def _restored(told: Mapping[str, Any]) -> Iterator[tuple[About, Concern]]:
    restored = told.get("restored")
    if restored is None:
        return
    waits = restored["detail"] or "upstream was not looked at yet"
    if restored["held"]:
        says = f"RESTORED from a copy of {restored['made_at']}: nothing is sent until what was sent since is found"
        do = f"wait ({waits}); `unhurried resume --restored` says what it would mean not to"
        yield ("database.restored", ""), Concern(f"{says}; {_came_to_light(restored)}", do)
    else:
        says = f"what was sent since the restored copy of {restored['made_at']} is still looked for"
        yield ("database.restored", ""), Concern(f"{says}; {_came_to_light(restored)}", f"nothing: {waits}")


def _came_to_light(restored: Mapping[str, Any]) -> str:
    found = counted(restored["found"], "batch was", "batches were")
    unknown = counted(restored["unknown_requests"], "request", "requests")
    return f"{found} found, with {unknown} accepted after the copy was made"


def _account(told: Mapping[str, Any], now: datetime) -> Iterator[tuple[About, Concern]]:
    account = told.get("account") or {}
    if not account.get("paused"):
        return
    at, until = account.get("paused_at"), account.get("paused_until")
    since = f"for {age(at, now)} (since {at}), " if at else ""
    end = f"until {until}" if until else "until `unhurried resume`"
    reason = account.get("pause_reason") or "no reason given"
    do = _mend(reason)
    if told.get("daemon") is not None:
        do += "; then `unhurried resume`" + ("; it also tries again by itself" if until else "")
    yield (
        ("account.paused_long", str(account.get("base_url", ""))),
        Concern(f"the account is PAUSED {since}{end}: {reason}", do),
    )


def _mend(reason: str) -> str:
    """By the status of upstream's answer, with which its words begin; without one there was no answer."""
    match reason.partition(" ")[0].rstrip(":"):
        case "401" | "402" | "403":
            return "mend the key, the limit or the bill"
        case "404":
            return "is upstream's address right? `unhurried config` shows it"
        case "429":
            return "upstream's limit is reached: wait, or have it raised"
        case status if status.isdigit():
            return "upstream's words say what it minds"
        case _:
            return "upstream does not answer: look at the network, the proxy and the address (`unhurried config`)"


def _batches(told: Mapping[str, Any], now: datetime) -> Iterator[tuple[About, Concern]]:
    states: Mapping[str, Mapping[str, Any]] = told.get("batches") or {}
    unknown, ended = states.get("unknown") or {}, states.get("ended") or {}
    down = told.get("daemon") is None
    if _older(unknown.get("oldest_at"), 0.0 if down else UNKNOWN_S, now):
        subject = counted(unknown["batches"], "unknown batch", "unknown batches")
        says = f"of {subject} nobody knows whether upstream has them, the oldest for {age(unknown['oldest_at'], now)}"
        do = "can upstream be listed? never send its requests by hand"
        if down:
            do = "start the daemon, it finds out; never send its requests by hand"
        yield ("batch.unknown", ""), Concern(says, do)
    if _older(ended.get("oldest_at"), ENDED_S, now):
        says = f"results are not all stored of a batch that ended {age(ended['oldest_at'], now)} ago"
        do = "`unhurried batches list --open` has the reason; they are read again by themselves"
        yield ("batch.ended", ""), Concern(says, "start the daemon: it reads them again" if down else do)
    if down:
        yield from _expiring(told.get("open_batches") or (), now)


def _expiring(batches: Sequence[Mapping[str, Any]], now: datetime) -> Iterator[tuple[About, Concern]]:
    """What the keeper would raise an alarm about, if it ran."""
    for batch in batches:
        expires_at = batch["upstream_expires_at"]
        if batch["state"] != "ended" and expires_at and _older(expires_at, -EXPIRY_S, now):
            over = datetime.fromisoformat(expires_at) <= now
            when = f"expired {age(expires_at, now)} ago" if over else f"expires {age(expires_at, now)}"
            says = f"batch {batch['id']} {when}: {batch['members_open']:,} of its requests have no result here"
            do = "start the daemon: results are read, what expired is sent again"
            yield ("batch.expires_soon", batch["id"]), Concern(says, do)


def _destinations(told: Mapping[str, Any], now: datetime) -> Iterator[tuple[About, Concern]]:
    """Only while the daemon is down: else its alarms tell."""
    if told.get("daemon") is not None:
        return
    for to in told.get("destinations") or ():
        name, dead = to["name"], to["deliveries"].get("dead", 0)
        waiting = to["deliveries"].get("pending", 0) + to["deliveries"].get("sending", 0)
        about = ("destination.failing", name)
        if to["paused_at"] is not None:
            says = f"{name} is paused for {age(to['paused_at'], now)}: {to['pause_reason'] or 'no reason given'}"
            yield (
                about,
                Concern(f"{says}; {waiting:,} wait", f"once the daemon runs: {DO[about[0]].format(about=name)}"),
            )
        elif to["failures"]:
            says = f"{name} is failing for {age(to['failing_since'], now)}"
            do = "mend the receiver; once the daemon runs, it is tried by itself"
            yield about, Concern(f"{says}: {counted(to['failures'], 'failure')} in a row, {waiting:,} wait", do)
        if dead:
            about = ("destination.dead_deliveries", name)
            says = f"{counted(dead, 'result')} to {name} used up all attempts"
            yield about, Concern(says, f"once the daemon runs: {DO[about[0]].format(about=name)}")


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
        # A detail that has a time of its own is about the trouble; the alarm's is only when it was noticed.
        noticed = "" if "since" in alarm["detail"] else f" for {age(alarm['since'], now)}"
        says = f"{alarm['name']}{subject}{noticed}: {alarm['detail']}"
        do = DO.get(alarm["name"], "docs/operations.md").format(about=about)
        yield (alarm["name"], about), Concern(says, do)


def _older(moment: str | None, seconds: float, now: datetime) -> bool:
    return moment is not None and (now - datetime.fromisoformat(moment)).total_seconds() > seconds
