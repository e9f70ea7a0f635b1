"""What ``status`` and ``top`` make of what the daemon tells: trouble first, with the next step, and in little room."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from unhurried.cli.concerns import DO, concerns
from unhurried.cli.overview import Room, overview
from unhurried.cli.top import Look, frame, rates
from unhurried.domain.alarms import AlarmName

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


def ago(**how: float) -> str:
    return (NOW - timedelta(**how)).isoformat()


def told(**changes: Any) -> dict[str, Any]:
    """What a daemon tells that has nothing to do."""
    process = {"version": "1", "pid": 7, "epoch": 3, "uptime_s": 5.0, "upstream": {}, "memory": {}, "stall": {},
               "loops": {}, "hanging": [], "counts": {"accepted": 0, "finished": 0, "delivered": 0}}  # fmt: skip
    account = {"base_url": "https://api.example", "paused": False, "paused_until": None, "pause_reason": None}
    quiet = {"requests": {}, "open_batches": [], "deliveries_pending": 0, "account": account, "queues": [],
             "batches": {}, "destinations": [], "alarms": [], "daemon": process}  # fmt: skip
    return quiet | changes


def queue(name: str, **changes: Any) -> dict[str, Any]:
    return dict.fromkeys(("oldest_queued_at", "oldest_open_at", "nearest_deadline", "paused_at", "pause_reason")) | {
        "name": name, "waiting_bytes": 0, **changes
    }  # fmt: skip


def destination(name: str, **changes: Any) -> dict[str, Any]:
    return dict.fromkeys(("oldest_at", "paused_at", "pause_reason", "failing_since", "open_until")) | {
        "name": name, "kind": "webhook", "deliveries": {}, "failures": 0, **changes
    }  # fmt: skip


def alarm(name: str, about: str = "") -> dict[str, Any]:
    return {"name": name, "entity_id": about, "since": ago(hours=2), "detail": "so it is"}


PAUSED = {"base_url": "u", "paused": True, "paused_until": None, "pause_reason": "401 wrong key"}


DRAINING = told()["daemon"] | {"draining": {"since": "2026-11-22T02:00:00Z", "actor": "uid:7"}}
FAILING = alarm("destination.failing", "webhook:app") | {"detail": "every attempt has failed since 02:00"}


@pytest.mark.parametrize(
    ("changes", "says", "do"),
    [
        ({"daemon": None}, "the daemon is not running", "start it"),
        ({"account": PAUSED}, "PAUSED until `unhurried resume`: 401 wrong key", "mend the key"),
        (
            {"account": PAUSED | {"paused_at": ago(hours=1)}},
            f"PAUSED for 1 h (since {ago(hours=1)})",
            "unhurried resume",
        ),
        ({"account": PAUSED | {"pause_reason": "ConnectError: [Errno 111]"}}, "Errno 111", "upstream does not answer"),
        ({"account": PAUSED | {"pause_reason": "429 rate_limit_error"}}, "429", "wait, or have it raised"),
        ({"daemon": DRAINING}, "DRAINING since 2026-11-22T02:00:00Z by uid:7", "unhurried undrain"),
        (
            {"alarms": [FAILING]},
            "destination.failing (webhook:app): every attempt has failed since 02:00",
            "resume webhook:app",
        ),
        ({"batches": {"unknown": {"batches": 2, "oldest_at": ago(hours=1)}}}, "the oldest for 1 h", "never send"),
        ({"batches": {"ended": {"batches": 1, "oldest_at": ago(hours=3)}}}, "ended 3 h ago", "batches list --open"),
        ({"queues": [queue("q", paused_at=ago(days=1))]}, "queue q is paused for 1 d", "queues resume q"),
        ({"queues": [queue("q", nearest_deadline=ago(minutes=5))]}, "a deadline passed 5 m ago", "flush --queue q"),
        ({"alarms": [alarm("disk.low")]}, "disk.low for 2 h: so it is", "make room"),
        ({"alarms": [alarm("destination.failing", "hook")]}, "(hook)", "destinations resume hook"),
        ({"alarms": [alarm("of.a.newer.version")]}, "of.a.newer.version", "docs/operations.md"),
    ],
)
def test_each_trouble_is_told_with_the_next_step(changes: dict[str, Any], says: str, do: str) -> None:
    [concern] = concerns(told(**changes), NOW)
    assert says in concern.says
    assert do in concern.do


def test_a_hanging_loop_is_told_first() -> None:
    process = told()["daemon"] | {"hanging": ["writer"]}
    first, second = concerns(told(daemon=process, account=PAUSED), NOW)
    assert "hangs: writer" in first.says
    assert "PAUSED" in second.says


def batch(state: str, **changes: Any) -> dict[str, Any]:
    return {"id": "b1", "state": state, "upstream_expires_at": None, "members_open": 3} | changes


@pytest.mark.parametrize(
    ("changes", "says", "do"),
    [
        ({"batches": {"unknown": {"batches": 1, "oldest_at": ago(minutes=1)}}}, "of 1 unknown batch", "it finds out"),
        (
            {"open_batches": [batch("in_progress", upstream_expires_at=ago(hours=-1))]},
            "batch b1 expires in 1 h: 3 of its requests have no result here", "start the daemon",
        ),
        (
            {"open_batches": [batch("in_progress", upstream_expires_at=ago(hours=1))]},
            "batch b1 expired 1 h ago", "start the daemon",
        ),
        (
            {"destinations": [destination("webhook:app", failures=1, failing_since=ago(hours=1))]},
            "webhook:app is failing for 1 h: 1 failure in a row", "mend the receiver",
        ),
        (
            {"destinations": [destination("webhook:app", paused_at=ago(hours=1), pause_reason="410")]},
            "webhook:app is paused for 1 h: 410", "once the daemon runs: mend the receiver",
        ),
        (
            {"destinations": [destination("webhook:app", deliveries={"dead": 2})]},
            "2 results to webhook:app used up all attempts", "redeliver --destination webhook:app --state dead",
        ),
    ],
)  # fmt: skip
def test_while_the_daemon_is_down_what_it_would_tell_is_told(changes: dict[str, Any], says: str, do: str) -> None:
    down, concern = concerns(told(daemon=None, **changes), NOW)
    assert "not running" in down.says
    assert says in concern.says
    assert do in concern.do


def test_while_the_daemon_is_down_nothing_happens_by_itself() -> None:
    paused = PAUSED | {"paused_until": ago(hours=-1), "pause_reason": "ConnectError"}
    assert "by itself" in concerns(told(account=paused), NOW)[0].do
    assert "by itself" not in concerns(told(account=paused, daemon=None), NOW)[1].do


def test_a_daemon_that_does_not_answer_is_not_called_down() -> None:
    [concern] = concerns(told(daemon=None, held_by="7"), NOW)
    assert "a daemon (pid 7) holds the database" in concern.says
    assert "UNHURRIED_SOCKET" in concern.do


def test_what_is_told_already_is_no_alarm_besides() -> None:
    assert len(concerns(told(account=PAUSED, alarms=[alarm("account.paused_long", "u")]), NOW)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batches": {"unknown": {"batches": 1, "oldest_at": ago(minutes=10)}}},  # the settlement needs its time
        {"batches": {"unknown": {"batches": 0, "oldest_at": None}}},
        {"queues": [queue("q", nearest_deadline=(NOW + timedelta(hours=1)).isoformat())]},
    ],
)
def test_what_is_as_it_should_be_is_no_concern(changes: dict[str, Any]) -> None:
    assert concerns(told(**changes), NOW) == []


def test_every_alarm_of_the_daemon_has_its_next_step() -> None:
    assert set(DO) == {name.value for name in AlarmName}


def text(answer: dict[str, Any], room: Room | None = None) -> list[str]:
    return [line.text for line in overview(answer, NOW, room or Room())]


def test_the_trouble_stands_above_the_tables() -> None:
    lines = text(told(account=PAUSED, requests={"q": {"queued": 1}}, queues=[queue("q", oldest_open_at=ago(hours=4))]))
    assert lines[0].startswith("! the account is PAUSED")
    assert lines[1].startswith("  → ")
    assert "4 h" in next(line for line in lines if line.startswith("q "))


def test_batches_in_doubt_come_first_and_the_rest_is_counted() -> None:
    batch = dict.fromkeys(("submit_started_at", "upstream_expires_at", "upstream_id", "detail")) | {
        "queue": "q", "model": "m", "requests": 1, "members_open": 1
    }  # fmt: skip
    batches = [batch | {"id": f"b{n}", "state": "in_progress", "created_at": ago(hours=n)} for n in range(5)]
    batches.append(batch | {"id": "lost", "state": "unknown", "created_at": ago(minutes=1)})
    lines = text(told(open_batches=batches), Room(rows_max=3))
    place = next(n for n, line in enumerate(lines) if line.startswith("open batch"))
    assert [line.split()[0] for line in lines[place + 1 : place + 4]] == ["lost", "b4", "b3"]
    assert lines[place + 4] == "and 3 more: `unhurried batches list --open`"


def test_only_destinations_that_wait_or_fail_are_shown_and_these_first() -> None:
    fine = destination("pull:fine", deliveries={"delivered": 9})
    waits = destination("pull:waits", deliveries={"pending": 2}, oldest_at=ago(minutes=3))
    tripped = destination(
        "hook", failures=5, failing_since=ago(hours=1), open_until=(NOW + timedelta(minutes=2)).isoformat()
    )
    lines = text(told(destinations=[fine, waits, tripped, destination("off", paused_at=ago(hours=1))]))
    place = next(n for n, line in enumerate(lines) if line.startswith("destination"))
    assert [line.split()[0] for line in lines[place + 1 : place + 4]] == ["hook", "off", "pull:waits"]
    assert "breaker open, tried again in 2 m" in lines[place + 1]
    assert not [line for line in lines if "pull:fine" in line]


def test_a_narrow_screen_does_without_what_is_empty() -> None:
    answer = told(requests={"labels": {"queued": 3, "succeeded": 12_000}})
    wide = next(line for line in text(answer) if line.startswith("queue"))
    narrow = next(line for line in text(answer, Room(columns_max=60)) if line.startswith("queue"))
    assert "canceled" in wide
    assert narrow.split() == ["queue", "queued", "succeeded"]


def look(at: float, epoch: int = 3, **counts: int) -> Look:
    process = told()["daemon"] | {"epoch": epoch, "counts": {"accepted": 0, "finished": 0, "delivered": 0} | counts}
    return Look(at, told(daemon=process))


def test_rates_are_what_happened_between_two_looks() -> None:
    before, after = look(10, accepted=5, delivered=2), look(12, accepted=25, delivered=2)
    assert rates(before, after) == {"accepted": 10.0, "finished": 0.0, "delivered": 0.0}


def test_there_are_no_rates_at_first_nor_across_a_restart() -> None:
    assert rates(None, look(1)) == {}
    assert rates(look(1, accepted=100), look(2, epoch=4, accepted=1)) == {}
    assert "accepted –/s" in next(frame(None, look(1), Room())).text
