"""What a queue may say of itself, and what then holds."""

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.store.support import NOW, PARAMS
from unhurried.clock import after
from unhurried.domain.grouping import Group, Limits, Why, plan
from unhurried.domain.queue import SETTINGS, QueueSettings, check_changes, check_name, defaults, effective, told
from unhurried.domain.request import QUEUE_NAME, Defaults, Refusal, accept

DAEMON = QueueSettings(linger_s=300.0, batch_requests_max=100, batch_bytes_max=10_000, deadline_s=86_400.0)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("linger_s", -1, "between 0 and"),
        ("linger_s", True, "must be a number"),
        ("linger_s", "3", "must be a number"),
        ("batch_requests_max", 0, "between 1 and 100,000"),
        ("batch_requests_max", 1.5, "whole number"),
        ("batch_requests_max", 100_001, "between 1 and 100,000"),
        ("batch_bytes_max", 999, "between 1,000 and 256,000,000"),
        ("deadline_s", 0, "between 1 and"),
        ("attempts_max", 101, "between 1 and 100"),
        ("priority", 10, "between -9 and 9"),
        ("deliver_to", "nowhere", "not a destination"),
        ("deliver_to", 3, "must be a string"),
        ("deliver_to", "webhook:gone", "add it first"),
        ("anthropic_version", "newest", "not a date"),
        ("anthropic_beta", ["bad name"], "not a beta name"),
        ("anthropic_beta", 3, "list of strings"),
        ("retention_days", -0.1, "between 0 and"),
        ("retention_days", float("nan"), "between 0 and"),
        ("linger", 3, "has no setting 'linger'"),
    ],
)
def test_what_is_unknown_or_impossible_is_refused_and_named(name: str, value: Any, says: str) -> None:
    with pytest.raises(Refusal, match=says) as refused:
        check_changes({name: value}, ())
    assert (refused.value.code, refused.value.field) == ("invalid_request", name)


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("linger_s", 0, 0.0),
        ("batch_requests_max", 5.0, 5),
        ("deliver_to", "pull:elsewhere", "pull:elsewhere"),
        ("deliver_to", "webhook:here", "webhook:here"),
        ("anthropic_beta", ["b", "a", "b"], "a,b"),
        ("anthropic_beta", "b, a", "a,b"),
        ("anthropic_beta", [], ""),
        ("priority", None, None),
    ],
)
def test_settings_are_stored_in_one_form(name: str, value: Any, stored: Any) -> None:
    assert check_changes({name: value}, {"webhook:here"}) == {name: stored}


@given(st.text(max_size=80))
def test_a_name_is_a_name_or_refused(name: str) -> None:
    if QUEUE_NAME.fullmatch(name):
        assert check_name(name) == name
    else:
        with pytest.raises(Refusal):
            check_name(name)


def test_its_own_setting_holds_and_elsewhere_the_daemons() -> None:
    own = QueueSettings(linger_s=0.0, priority=3)
    holds = effective("labels", own, DAEMON)
    assert (holds.linger_s, holds.priority, holds.batch_requests_max) == (0.0, 3, 100)
    assert holds.deliver_to == "pull:labels"
    assert holds.unread_days is None
    assert asdict(holds).keys() == set(SETTINGS)


def test_a_change_is_told_with_what_was_before() -> None:
    before = QueueSettings(linger_s=5.0, priority=1)
    assert told({"linger_s": None, "priority": 1, "attempts_max": 2}, before) == (
        "linger_s 5.0 → default, attempts_max default → 2"
    )
    assert told({"priority": 1}, before) == ""


def test_a_request_that_says_nothing_gets_what_its_queue_says() -> None:
    own = QueueSettings(
        deadline_s=60.0,
        attempts_max=7,
        priority=-2,
        deliver_to="pull:all",
        anthropic_version="2023-06-01",
        anthropic_beta="a,b",
    )
    daemon = Defaults()
    queues = {"labels": defaults(own, daemon)}

    def taken(**fields: Any) -> Any:
        line = json.dumps({"params": PARAMS, "queue": "labels"} | fields).encode()
        return accept(line, id="x", now=NOW, defaults=daemon, queues=queues)

    plain = taken()
    assert (plain.priority, plain.attempts_max, plain.deliver_to) == (-2, 7, "pull:all")
    assert (plain.anthropic_version, plain.anthropic_beta) == ("2023-06-01", "a,b")
    assert plain.deadline_at == after(NOW, 60)
    said = taken(
        priority=0, max_wait=5, deliver_to="pull:mine", anthropic_version="2026-10-21", anthropic_beta=[], metadata={}
    )
    assert (said.priority, said.deliver_to, said.anthropic_version) == (0, "pull:mine", "2026-10-21")
    assert said.anthropic_beta == "" and said.deadline_at == after(NOW, 5)
    other = taken(queue="other")
    assert (other.priority, other.attempts_max, other.deliver_to) == (0, 3, "pull:other")


def test_nothing_set_is_the_daemons_own_defaults() -> None:
    daemon = Defaults(deadline_s=5.0, webhooks={"webhook:x"})
    assert defaults(QueueSettings(linger_s=3.0, retention_days=1.0), daemon) == daemon


LIMITS = Limits(requests_max=100, bytes_max=10_000, linger_s=300.0, turnaround_default_s=60.0, deadline_margin_s=5.0)


def waiting(**fields: Any) -> Group:
    plain: dict[str, Any] = {
        "id": 1, "model": "m", "requests": 5, "bytes": 500, "oldest_at": after(NOW, -20),
        "nearest_deadline": after(NOW, 86_400),
    }  # fmt: skip
    return Group(**(plain | fields))


@pytest.mark.parametrize(
    ("group", "why", "size"),
    [
        (waiting(), None, None),
        (waiting(linger_s=20.0), Why.LINGER, (100, 10_000)),
        (waiting(linger_s=0.0), Why.LINGER, (100, 10_000)),
        (waiting(batch_requests_max=5), Why.FULL, (5, 10_000)),
        (waiting(batch_requests_max=500), None, None),
        (waiting(batch_requests_max=500, requests=120, linger_s=1.0), Why.LINGER, (500, 10_000)),
        (waiting(batch_bytes_max=500), Why.FULL, (100, 500)),
        (waiting(batch_requests_max=50, requests_cap=8), Why.SPLIT, (8, 10_000)),
    ],
)
def test_a_queue_may_linger_and_fill_its_batches_as_it_says(
    group: Group, why: Why | None, size: tuple[int, int] | None
) -> None:
    order = plan([group], LIMITS, {}, NOW).order
    assert (order.why if order else None) == why
    if order is not None:
        assert (order.requests_max, order.bytes_max) == size


def test_while_the_daemon_is_drained_nothing_lingers() -> None:
    order = plan([waiting(oldest_at=NOW)], LIMITS, {}, NOW, flush=True).order
    assert order is not None and order.why is Why.FLUSH


def test_it_looks_again_when_the_queue_has_lingered_as_it_says() -> None:
    assert plan([waiting(linger_s=27.5)], LIMITS, {}, NOW).look_again_s == 7.5
