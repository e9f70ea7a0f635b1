"""What to do about a batch of which nobody knows whether it exists."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhurried.clock import Ms, after
from unhurried.domain.batch import Batch, BatchId, UpstreamId
from unhurried.domain.settling import (
    Abandon,
    Adopt,
    Doubt,
    Known,
    Listing,
    ReadNonces,
    SettlePolicy,
    Sighting,
    Verdict,
    Wait,
    settle,
)
from unhurried.domain.states import BatchState

T0 = Ms(1_795_000_000_000)
"""Our POST, on our clock and on upstream's."""
POLICY = SettlePolicy(grace_s=60.0, absent_s=900.0)
NOBODY = Known(settled=frozenset(), held=frozenset())
BATCH = Batch(
    id=BatchId("b1"),
    state=BatchState.UNKNOWN,
    nonce="abcdefghjkmn",
    queue="default",
    model="m",
    anthropic_version="2026-10-21",
    anthropic_beta="",
    requests=10,
    body_bytes=1,
    created_at=T0,
)


def at(seconds: float) -> Ms:
    return after(T0, seconds)


def doubt(
    *, absent_s: float | None = None, absent_date_s: float | None = None, window_to_s: float | None = None
) -> Doubt:
    """In doubt since T0; missing first ``absent_s`` after it on our clock, ``absent_date_s`` on upstream's."""
    date_s = absent_date_s if absent_date_s is not None else absent_s
    return Doubt(
        batch=BATCH,
        since=T0,
        window_from=T0,
        window_to=at(window_to_s) if window_to_s is not None else None,
        absent_at=at(absent_s) if absent_s is not None else None,
        absent_date=at(date_s) if date_s is not None else None,
    )


def sighting(id: str = "u1", *, total: int = 10, made_s: float = 1.0, ended: bool = False, **fields: Any) -> Sighting:
    return Sighting(
        id=UpstreamId(id),
        total=total,
        created_at=at(made_s),
        expires_at=at(86_400),
        ended_at=at(made_s + 5) if ended else None,
        ended=ended,
        canceling=False,
        results_readable=fields.pop("readable", ended),
        **fields,
    )


STRANGER = sighting("u9", total=7, made_s=200)
"""Of another size, made late: it shows that a listing is fresh."""


@dataclass
class Case:
    name: str
    doubt: Doubt
    seen: Sequence[Sighting]
    now_s: float
    verdict: Verdict | type
    known: Known = NOBODY
    date_s: float | None = None


def known(*settled: str, held: Sequence[str] = ()) -> Known:
    return Known(settled=frozenset(UpstreamId(id) for id in settled), held=frozenset(UpstreamId(id) for id in held))


BUSY = Known(settled=frozenset(), held=frozenset(), being_created=frozenset({10}))
ABSENT, PRESENT = Wait(absent=True), Wait(absent=False)
CASES = [
    Case("one that can be it", doubt(), [sighting()], 1, Adopt(sighting=sighting())),
    Case("one, after it had been missing", doubt(absent_s=1), [sighting()], 70, Adopt(sighting=sighting())),
    Case("another total", doubt(), [sighting(total=9)], 1, ABSENT),
    Case("made long before", doubt(), [sighting(made_s=-60.1)], 1, ABSENT),
    Case("made just before, by another of upstream's clocks", doubt(), [sighting(made_s=-60)], 1, Adopt),
    Case("made after the window", doubt(window_to_s=900), [sighting(made_s=901)], 950, ABSENT),
    Case("made at the end of the window", doubt(window_to_s=900), [sighting(made_s=900)], 950, Adopt),
    Case("settled as another's", doubt(), [sighting()], 1, ABSENT, known("u1")),
    Case("held by another in doubt", doubt(), [sighting()], 1, PRESENT, known(held=["u1"])),
    Case("held and ended", doubt(), [sighting(ended=True)], 1, PRESENT, known(held=["u1"])),
    Case("held, and one more", doubt(), [sighting(), sighting("u2")], 1, PRESENT, known(held=["u1"])),
    Case("held, long missing", doubt(absent_s=1), [sighting(), STRANGER], 9_999, PRESENT, known(held=["u1"])),
    Case("another of its size is being created", doubt(), [sighting()], 1, PRESENT, BUSY),
    Case("another of its size is being created, none seen", doubt(), [STRANGER], 1, ABSENT, BUSY),
    Case("one of another size is being created", doubt(), [sighting()], 1, Adopt, replace(BUSY, being_created={9})),
    Case("several", doubt(), [sighting(), sighting("u2")], 1, PRESENT),
    Case("several, long after", doubt(absent_s=1), [sighting(), sighting("u2"), STRANGER], 9_999, PRESENT),
    Case("ended", doubt(), [sighting(ended=True)], 1, ReadNonces(sightings=[sighting(ended=True)])),
    Case(
        "several, one of them ended",
        doubt(),
        [sighting(ended=True), sighting("u2")],
        1,
        ReadNonces(sightings=[sighting(ended=True)]),
    ),
    Case("ended, results to follow", doubt(), [sighting(ended=True, readable=False)], 1, Adopt),
    Case("missing at the first look", doubt(), [STRANGER], 1, ABSENT),
    Case("missing at the first look, long after", doubt(), [STRANGER], 9_999, ABSENT),
    Case("missing twice, too close together", doubt(absent_s=1), [STRANGER], 60.9, ABSENT),
    Case("missing twice, far enough apart", doubt(absent_s=1), [STRANGER], 61, Abandon),
    Case("missing twice, no proof that the list is fresh", doubt(absent_s=1), [], 900, ABSENT),
    Case("missing twice, what is newer is too near", doubt(absent_s=199), [STRANGER], 300, ABSENT),
    Case("missing for absent_s", doubt(absent_s=1), [], 901, Abandon),
    Case("missing for absent_s, the two looks too close", doubt(absent_s=899), [], 900, ABSENT),
    Case("our clock jumped ahead", doubt(absent_s=1), [STRANGER], 99_999, ABSENT, date_s=2),
    Case("our clock jumped, and the list is stale", doubt(absent_s=1), [], 99_999, ABSENT, date_s=62),
    Case("upstream's clock jumped ahead", doubt(absent_s=1), [STRANGER], 2, ABSENT, date_s=99_999),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_verdict(case: Case) -> None:
    listing = Listing(sightings=case.seen, date=at(case.date_s if case.date_s is not None else case.now_s))
    verdict = settle(case.doubt, listing, case.known, POLICY, at(case.now_s))
    if isinstance(case.verdict, type):
        assert isinstance(verdict, case.verdict)
    else:
        assert verdict == case.verdict


IDS = st.sampled_from(["u1", "u2", "u3"])
SECONDS = st.integers(-5, 2_000)
SIGHTINGS = st.lists(
    st.builds(
        lambda id, total, made_s, ended: sighting(id, total=total, made_s=made_s, ended=ended),
        IDS,
        st.sampled_from([9, 10]),
        SECONDS,
        st.booleans(),
    ),
    max_size=3,
    unique_by=lambda seen: seen.id,
)
DOUBTS = st.builds(
    lambda first, skew_s, window_to_s: doubt(
        absent_s=first, absent_date_s=first + skew_s if first is not None else None, window_to_s=window_to_s
    ),
    st.none() | st.integers(0, 2_000),
    st.integers(-100, 100),
    st.none() | st.integers(0, 2_000),
)
KNOWNS = st.builds(
    lambda settled, held: known(*settled, held=held), st.lists(IDS, max_size=2), st.lists(IDS, max_size=2)
)


@given(DOUBTS, SIGHTINGS, KNOWNS, st.integers(0, 100_000), st.integers(0, 100_000))
def test_nothing_is_given_up_without_proof(
    doubt: Doubt, seen: list[Sighting], known: Known, now_s: int, date_s: int
) -> None:
    """Two complete listings a grace apart on both clocks, the later one fresh or ``absent_s`` later on both clocks; and
    nothing in the listing that could be it."""
    listing = Listing(sightings=seen, date=at(date_s))
    verdict = settle(doubt, listing, known, POLICY, at(now_s))
    if not isinstance(verdict, Abandon):
        return
    assert doubt.absent_at is not None and doubt.absent_date is not None
    assert at(now_s) - doubt.absent_at >= 60_000
    assert at(date_s) - doubt.absent_date >= 60_000
    fresh = any(one.created_at > doubt.absent_date for one in seen)
    assert fresh or min(at(now_s) - doubt.absent_at, at(date_s) - doubt.absent_date) >= 900_000
    window_to = doubt.window_to if doubt.window_to is not None else at(10**9)
    assert not [
        one for one in seen if one.total == 10 and one.id not in known.settled and T0 <= one.created_at <= window_to
    ]


@given(DOUBTS, SIGHTINGS, KNOWNS, st.integers(0, 100_000))
def test_what_is_known_or_held_is_never_adopted(doubt: Doubt, seen: list[Sighting], known: Known, now_s: int) -> None:
    verdict = settle(doubt, Listing(sightings=seen, date=at(now_s)), known, POLICY, at(now_s))
    taken: Sequence[Sighting] = ()
    if isinstance(verdict, Adopt):
        taken = [verdict.sighting]
        others = [one for one in seen if one.id not in known.settled and one.total == 10]
        assert len([one for one in others if at(-60) <= one.created_at <= (doubt.window_to or at(10**9))]) == 1
    elif isinstance(verdict, ReadNonces):
        taken = verdict.sightings
        assert all(one.results_readable for one in taken)
    assert all(one.id not in known.settled | known.held for one in taken)
    assert all(one.total == 10 and one.created_at >= at(-60) for one in taken)


@given(SIGHTINGS, KNOWNS, st.integers(0, 10**7))
def test_a_jump_of_our_clock_alone_proves_nothing(seen: list[Sighting], known: Known, jump_s: int) -> None:
    """Less than a grace passed upstream since the first look: whatever our clock says, nothing is given up."""
    listing = Listing(sightings=seen, date=at(60))
    assert not isinstance(settle(doubt(absent_s=1), listing, known, POLICY, at(jump_s)), Abandon)


@given(SIGHTINGS)
def test_an_absent_batch_is_given_up_in_the_end(seen: list[Sighting]) -> None:
    """Nothing stays in doubt for ever: without a look-alike, it ends after ``absent_s``."""
    others = [one for one in seen if one.total != 10]
    listing = Listing(sightings=others, date=at(961))
    assert isinstance(settle(doubt(absent_s=1), listing, NOBODY, POLICY, at(961)), Abandon)
