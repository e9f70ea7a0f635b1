"""What is sent, what an answer means, when to try again, when to leave a receiver alone."""

import json
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unhurried.clock import Ms, after, parse_rfc3339
from unhurried.domain.delivering import (
    SCHEDULE_S,
    Breaker,
    Delivered,
    Gone,
    Outcome,
    Parcel,
    TryAgain,
    after_failure,
    after_success,
    allowance,
    breaker_state,
    event,
    given_up,
    outcome_of,
    parse_retry_after,
    retry_pause_s,
)
from unhurried.domain.states import RequestState

NOW = parse_rfc3339("2026-11-22T08:00:00Z")
RESULT = b'{"type":"succeeded", "message":{"content":[{"text":"\xc3\xbc \\ud83d"}],"n":1.0e5}}'
PARCEL = Parcel(
    delivery_id="r1.0",
    attempt=1,
    request_id="r1",
    custom_id="mine",
    queue="labels",
    state=RequestState.SUCCEEDED,
    stored_at=Ms(NOW + 123),
    metadata=b'{"user": 7}',
    result=RESULT,
)
HOUR_S = 3_600.0

jitters = st.floats(0, 1, exclude_max=True)
moments = st.integers(0, 4_000_000_000_000).map(Ms)


# The schedule.


def test_ten_attempts_in_a_little_over_three_days() -> None:
    pauses = [retry_pause_s(attempts, 0.5, None) for attempts in range(1, 11)]
    assert pauses == [*SCHEDULE_S, None]
    assert 3 * 86_400 < sum(SCHEDULE_S) < 3.2 * 86_400


@given(st.integers(1, 9), jitters, st.none() | st.floats(0, 1e12))
def test_a_pause_is_a_fifth_shorter_or_longer_and_never_shorter_than_asked(
    attempts: int, jitter: float, retry_after_s: float | None
) -> None:
    pause_s = retry_pause_s(attempts, jitter, retry_after_s)
    assert pause_s is not None
    own_s = SCHEDULE_S[attempts - 1]
    assert pause_s >= 0.8 * own_s
    assert pause_s <= max(1.2 * own_s, min(retry_after_s or 0, 86_400))
    assert retry_after_s is None or pause_s >= min(retry_after_s, 86_400)


@given(st.integers(10, 10_000), jitters, st.floats(0, 1e6))
def test_whoever_asks_for_more_time_gets_no_more_attempts(attempts: int, jitter: float, retry_after_s: float) -> None:
    assert retry_pause_s(attempts, jitter, retry_after_s) is None


# The body.


def test_the_body_has_the_bytes_of_upstream_and_of_the_caller() -> None:
    body = event(PARCEL, 1_000)
    assert b'"result":' + RESULT in body
    assert b'"metadata":{"user": 7}' in body
    assert json.loads(body) == {
        "type": "request.succeeded",
        "timestamp": "2026-11-22T08:00:00.123Z",
        "data": {
            "delivery_id": "r1.0",
            "request_id": "r1",
            "custom_id": "mine",
            "queue": "labels",
            "state": "succeeded",
            "stored_at": "2026-11-22T08:00:00.123Z",
            "metadata": {"user": 7},
            "result_path": "/queue/requests/r1",
            "result": json.loads(RESULT),
        },
    }


def test_no_two_attempts_differ() -> None:
    assert event(PARCEL, 1_000) == event(replace(PARCEL, attempt=7), 1_000)


@pytest.mark.parametrize(
    ("result", "bytes_max", "sent"),
    [
        (b'"ok"', 4, "ok"),
        (b'"ok"', 3, None),
        (b'"ok"', 0, None),
        (b"", 4, None),
        (b'"\xff"', 4, None),
    ],
)
def test_a_result_that_does_not_fit_is_to_be_fetched(result: bytes, bytes_max: int, sent: str | None) -> None:
    """Nor one that no receiver could read: a body that is not UTF-8 cannot be signed."""
    data = json.loads(event(replace(PARCEL, result=result, metadata=None, custom_id=None), bytes_max))["data"]
    assert (data["result"], data["metadata"], data["custom_id"]) == (sent, None, None)
    assert data["result_path"] == "/queue/requests/r1"


# What an answer means.


@pytest.mark.parametrize(
    ("status", "retry_after", "outcome"),
    [
        (200, None, Delivered(status=200)),
        (204, "60", Delivered(status=204)),
        (299, None, Delivered(status=299)),
        (410, "60", Gone(detail="the receiver answered 410 Gone")),
        (302, None, TryAgain(detail="the receiver answered 302, and redirects are not followed", status=302)),
        (101, None, TryAgain(detail="the receiver answered 101", status=101)),
        (404, None, TryAgain(detail="the receiver answered 404", status=404)),
        (429, None, TryAgain(detail="the receiver answered 429", status=429)),
        (
            429,
            "60",
            TryAgain(detail="the receiver answered 429", status=429, retry_after_s=60, throttled=True),
        ),
        (503, "0", TryAgain(detail="the receiver answered 503", status=503, retry_after_s=0, throttled=True)),
        (500, "9", TryAgain(detail="the receiver answered 500", status=500, retry_after_s=9)),
    ],
)
def test_only_2xx_confirms(status: int, retry_after: str | None, outcome: Outcome) -> None:
    assert outcome_of(status, retry_after, NOW) == outcome


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120),
        (" 120 ", 120),
        ("0", 0),
        ("1.5", 1.5),
        ("99999999999999999999", 1e20),
        ("Sun, 22 Nov 2026 08:02:00 GMT", 120),
        ("Sun, 22 Nov 2026 09:02:00 +0100", 120),
        ("Sunday, 22-Nov-26 08:02:00 GMT", 120),
        ("Sun Nov 22 08:02:00 2026", 120),
        ("Sun, 22 Nov 2026 07:00:00 GMT", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Sun, 99 Nov 2026 08:02:00 GMT", None),
        ("-1", None),
        ("+1", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("٣", None),
        ("soon", None),
        ("1" * 101, None),
    ],
)
def test_retry_after_in_all_its_forms(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, NOW) == seconds


@given(st.text(max_size=120) | st.from_regex(r"\w{3}, \d+ \w{3} \d+ [\d:]+( .*)?"))
@example("Wed, 3 Apr 2002 12.34.56.78+0800")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example(", 1 Jan 9999999999 0:0:0")
def test_no_header_can_do_harm(text: str) -> None:
    seconds = parse_retry_after(text, NOW)
    assert seconds is None or 0 <= seconds < float("inf")


# The breaker.


def failed(times: int, now: Ms = NOW) -> Breaker:
    breaker = Breaker()
    for _ in range(times):
        breaker = after_failure(breaker, now)
    return breaker


def test_the_fifth_failure_in_a_row_opens_it() -> None:
    assert [allowance(failed(times), NOW, 8) for times in range(6)] == [8, 8, 8, 8, 8, 0]
    assert failed(5) == Breaker(failures=5, failing_since=NOW, open_until=after(NOW, 30), trips=1)


def test_each_probe_that_fails_doubles_the_pause() -> None:
    breaker, now, pauses = failed(5), NOW, []
    for _ in range(8):
        assert breaker.open_until is not None
        pauses.append((breaker.open_until - now) / 1000)
        now = breaker.open_until
        assert allowance(breaker, Ms(now - 1), 8) == 0
        assert allowance(breaker, now, 8) == 1
        breaker = after_failure(breaker, now)
    assert pauses == [30, 60, 120, 240, 480, 600, 600, 600]


def test_a_probe_that_succeeds_closes_it() -> None:
    closed = after_success(failed(5))
    later = after(NOW, 30)
    assert allowance(closed, later, 8) == 8
    assert breaker_state(closed, later) == "closed"
    assert allowance(after_failure(closed, later), later, 8) == 8


def test_attempts_that_were_under_way_do_not_prolong_the_pause() -> None:
    """Eight at once fail together: that is one reason to pause, not four."""
    assert failed(8) == replace(failed(5), failures=8)


def test_a_success_among_them_does_not_end_what_the_receiver_asked_for() -> None:
    throttled = after_failure(Breaker(), NOW, 120.0)
    assert allowance(after_success(throttled), after(NOW, 119), 8) == 0
    assert allowance(after_success(throttled), after(NOW, 120), 8) == 8


@pytest.mark.parametrize(("asked_s", "paused_s"), [(120.0, 120), (0.0, 1), (1e9, 86_400), (-5.0, 1)])
def test_a_throttling_answer_opens_it_at_once(asked_s: float, paused_s: float) -> None:
    breaker = after_failure(Breaker(), NOW, asked_s)
    assert breaker == Breaker(failures=1, failing_since=NOW, open_until=after(NOW, paused_s))
    assert allowance(breaker, Ms(after(NOW, paused_s) - 1), 8) == 0
    assert allowance(breaker, after(NOW, paused_s), 8) == 1


def test_the_longer_of_two_pauses_counts() -> None:
    assert after_failure(failed(4), NOW, 1.0).open_until == after(NOW, 30)
    assert after_failure(failed(4), NOW, 90.0).open_until == after(NOW, 90)
    assert after_failure(after_failure(Breaker(), NOW, 90.0), NOW, 1.0).open_until == after(NOW, 90)


@pytest.mark.parametrize(
    ("breaker", "hours", "result"),
    [
        (Breaker(), 999, False),
        (failed(5), 119, False),
        (failed(5), 120, True),
        (failed(4), 999, False),
        (after_success(failed(9)), 999, False),
        (failed(5), -1, False),
    ],
)
def test_only_a_long_row_of_failures_is_given_up(breaker: Breaker, hours: int, result: bool) -> None:
    assert given_up(breaker, after(NOW, hours * HOUR_S), 120 * HOUR_S) is result


steps = st.lists(st.tuples(st.sampled_from(["success", "failure", "throttled"]), st.floats(-60, 4_000)), max_size=60)


@given(steps, moments, st.integers(1, 100))
def test_whatever_happens_it_opens_again(history: list[tuple[str, float]], start: Ms, concurrency: int) -> None:
    """It pauses for a day at most from the last failure, forgets nothing of a row, and never allows more than asked."""
    breaker, now, row = Breaker(), start, 0
    latest = start
    for what, seconds in history:
        now = Ms(max(0, after(now, seconds)))
        latest = max(latest, now)
        if what == "success":
            breaker, row = after_success(breaker), 0
        else:
            breaker, row = after_failure(breaker, now, seconds if what == "throttled" else None), row + 1
        assert breaker.failures == row
        assert (breaker.failing_since is None) == (row == 0)
        assert 0 <= allowance(breaker, now, concurrency) <= concurrency
        assert allowance(breaker, after(latest, 86_400), concurrency) >= 1
