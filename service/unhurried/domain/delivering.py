"""Delivering by webhook, decided: what is sent, what an answer means, when to try again, when to leave one alone.

``destination`` has the URLs and the references to secrets, ``addresses`` which addresses may be dialled; both are
offered here too. The bytes follow Standard Webhooks 1.0, as does the schedule
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, read 2026-11).
"""

import math
import re
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final, Literal

import msgspec

from unhurried.clock import Ms, after, rfc3339, seconds_between
from unhurried.domain.addresses import Network, refusal_of_address
from unhurried.domain.destination import (
    SecretRef,
    Target,
    check_destination,
    parse_secret_ref,
    parse_target,
)
from unhurried.domain.states import RequestState

__all__ = [
    "SCHEDULE_S",
    "Breaker",
    "BreakerState",
    "Delivered",
    "Gone",
    "Misconfigured",
    "Network",
    "Outcome",
    "Parcel",
    "SecretRef",
    "Target",
    "TryAgain",
    "after_failure",
    "after_success",
    "allowance",
    "breaker_state",
    "check_destination",
    "event",
    "given_up",
    "outcome_of",
    "parse_retry_after",
    "parse_secret_ref",
    "parse_target",
    "refusal_of_address",
    "retry_pause_s",
    "test_event",
]

SCHEDULE_S: Final = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Pauses after the 1st, 2nd, … attempt: ten attempts in a little over three days."""
JITTER: Final = 0.2
PAUSE_MAX_S: Final = 86_400.0
"""The longest that a receiver may ask for."""

TEST_TYPE: Final = "unhurried.test"

FAILURES_TO_OPEN: Final = 5
OPEN_S: Final = 30.0
OPEN_MAX_S: Final = 600.0
THROTTLED_MIN_S: Final = 1.0
"""A ``Retry-After`` of 0, or a date that has passed, must not become a loop."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """One attempt to deliver one result.

    ``delivery_id`` is the same over every attempt, ``attempt`` counts from 1. ``metadata`` is the caller's JSON object,
    ``result`` upstream's, empty where upstream never had the request.
    """

    delivery_id: str
    attempt: int
    request_id: str
    custom_id: str | None
    queue: str
    state: RequestState
    stored_at: Ms
    metadata: bytes | None
    result: bytes


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """2xx. What the receiver wrote beside it does not matter."""

    status: int


@dataclass(frozen=True, kw_only=True)
class TryAgain:
    """Any other answer, or none: ``status`` is ``None``. ``throttled``: the receiver asks for rest, of this delivery
    and of every other; ``retry_after_s`` says how long."""

    detail: str
    status: int | None = None
    retry_after_s: float | None = None
    throttled: bool = False


@dataclass(frozen=True, kw_only=True)
class Gone:
    """410: the receiver wants no more of these, now or later."""

    detail: str


@dataclass(frozen=True, kw_only=True)
class Misconfigured:
    """Nothing was sent, and the receiver had no part in it: a secret that cannot be read, an address that is not
    allowed. It counts as no attempt of the delivery; ``detail`` tells the operator what to change, and no secret."""

    detail: str


Outcome = Delivered | TryAgain | Gone | Misconfigured


def retry_pause_s(attempts: int, jitter: float, retry_after_s: float | None) -> float | None:
    """Seconds until the next attempt after ``attempts`` (1 or more) that failed; ``None``: it was the last.

    ``jitter``, from 0 up to 1, spreads the pause by a fifth to either side. ``retry_after_s`` is what the receiver
    asked for, at most a day of it: the pause is never shorter.
    """
    assert attempts >= 1
    if attempts > len(SCHEDULE_S):
        return None
    pause_s = SCHEDULE_S[attempts - 1] * (1 - JITTER + 2 * JITTER * jitter)
    return max(pause_s, min(retry_after_s or 0.0, PAUSE_MAX_S))


def event(parcel: Parcel, result_bytes_max: int) -> bytes:
    """The body, the same bytes at every attempt: receivers may compare them, and nothing in it tells attempts apart.

    A result of more than ``result_bytes_max`` bytes is left out (``null``; with a limit of 0 every one is), and so is
    one that is not UTF-8, which no JSON is; ``result_path`` says where on the daemon's socket it can be had.
    """
    fits = 0 < len(parcel.result) <= result_bytes_max and _is_utf8(parcel.result)
    return msgspec.json.encode(
        {
            "type": f"request.{parcel.state}",
            "timestamp": rfc3339(parcel.stored_at),
            "data": {
                "delivery_id": parcel.delivery_id,
                "request_id": parcel.request_id,
                "custom_id": parcel.custom_id,
                "queue": parcel.queue,
                "state": parcel.state,
                "stored_at": rfc3339(parcel.stored_at),
                "metadata": msgspec.Raw(parcel.metadata) if parcel.metadata else None,
                "result_path": f"/queue/requests/{parcel.request_id}",
                "result": msgspec.Raw(parcel.result) if fits else None,
            },
        }
    )


def test_event(id: str, now: Ms) -> bytes:
    """The body of a test: signed and sent as every other, and of a type that no receiver takes for a result."""
    says = "This is a test. No result belongs to it."
    return msgspec.json.encode(
        {"type": TEST_TYPE, "timestamp": rfc3339(now), "data": {"delivery_id": id, "message": says}}
    )


def outcome_of(status: int, retry_after: str | None, now: Ms) -> Outcome:
    """What an answer means; ``retry_after`` is the header's text. Redirects are answers like any other: an address that
    was checked must not lead to one that was not."""
    if 200 <= status < 300:
        return Delivered(status=status)
    if status == 410:
        return Gone(detail="the receiver answered 410 Gone")
    retry_after_s = parse_retry_after(retry_after, now)
    return TryAgain(
        detail=f"the receiver answered {status}" + (", and redirects are not followed" if 300 <= status < 400 else ""),
        status=status,
        retry_after_s=retry_after_s,
        throttled=retry_after_s is not None and status in {429, 502, 503, 504},
    )


_SECONDS: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?")


def parse_retry_after(text: str | None, now: Ms) -> float | None:
    """Seconds from now in a ``Retry-After``: a number of seconds or an HTTP date, 0 for one that has passed.

    ``None`` where there is none or it cannot be read. Not clamped: the pause and the breaker do that.
    """
    if text is None or len(text) > 100:
        return None
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:  # asctime's form, which is UTC without saying so
            moment = moment.replace(tzinfo=UTC)
        seconds = moment.timestamp() - now / 1000
    except (ValueError, OverflowError):
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


BreakerState = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, kw_only=True)
class Breaker:
    """What is remembered of a destination, so that one that is down is left alone. It pauses attempts, burns none.

    ``failures`` in a row, ``failing_since`` the first of them, ``open_until`` the end of the last pause, ``trips`` how
    often it opened by itself since the last success. ``Breaker()`` is one that knows of no trouble.
    """

    failures: int = 0
    failing_since: Ms | None = None
    open_until: Ms | None = None
    trips: int = 0


def after_success(breaker: Breaker) -> Breaker:
    """All is forgiven. A pause that still runs is kept to the end: the receiver may have asked for it."""
    return Breaker(open_until=breaker.open_until)


def after_failure(breaker: Breaker, now: Ms, retry_after_s: float | None = None) -> Breaker:
    """Opens at the fifth failure in a row, and when its one attempt after a pause fails: for 30 s, doubling each time,
    at most 10 min. ``retry_after_s``, given for a throttling answer only, opens it at once, for so long, at most a day.

    Failures while it is open are of attempts begun before: they count, but do not prolong the pause. A pause that was
    over before the last success is forgotten.
    """
    state = breaker_state(breaker, now)
    failed = Breaker(
        failures=breaker.failures + 1,
        failing_since=_first(breaker.failing_since, now),
        open_until=None if state == "closed" else breaker.open_until,
        trips=breaker.trips,
    )
    if state != "open" and (state == "half_open" or failed.failures >= FAILURES_TO_OPEN):
        pause_s = min(OPEN_S * 2.0 ** min(breaker.trips, 20), OPEN_MAX_S)
        failed = replace(failed, trips=breaker.trips + 1, open_until=after(now, pause_s))
    if retry_after_s is not None:
        until = after(now, min(max(retry_after_s, THROTTLED_MIN_S), PAUSE_MAX_S))
        failed = replace(failed, open_until=max(failed.open_until or until, until))
    return failed


def breaker_state(breaker: Breaker, now: Ms) -> BreakerState:
    """Half-open when its pause is over and no attempt has succeeded since."""
    if breaker.open_until is None:
        return "closed"
    if now < breaker.open_until:
        return "open"
    return "half_open" if breaker.failures else "closed"


def allowance(breaker: Breaker, now: Ms, concurrency: int) -> int:
    """How many attempts may be under way at once: none while open, one to try when half-open, else ``concurrency``."""
    match breaker_state(breaker, now):
        case "open":
            return 0
        case "half_open":
            return min(1, concurrency)
        case "closed":
            return concurrency


def given_up(breaker: Breaker, now: Ms, disable_after_s: float) -> bool:
    """Whether it has failed throughout for ``disable_after_s``, by more than a failure or two that lie far apart."""
    if breaker.failing_since is None or breaker.failures < FAILURES_TO_OPEN:
        return False
    return seconds_between(breaker.failing_since, now) >= disable_after_s


def _first(since: Ms | None, now: Ms) -> Ms:
    return now if since is None else min(since, now)


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
