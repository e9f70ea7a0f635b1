"""What to do about batches of which nobody knows whether they exist.

Upstream's list is the only witness. It may lag behind a create, and a stranger's batch in the same workspace can look
like ours, so a listing is judged together with the one before it, and a look-alike is believed only when a result line
shows our nonce.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from unhurried.clock import Ms, after, seconds_between
from unhurried.domain.batch import Batch, UpstreamId

CREATED_AT_SLACK_S = 60.0
"""How much earlier than our POST, by upstream's clocks, its batch may seem to be created: ``Date`` has whole seconds
and may come from another machine than ``created_at``. A look-alike too many costs a wait; ours unseen, a second
payment."""
FRESH_SLACK_S = 2.0
"""``Date`` has whole seconds."""


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """One batch as upstream lists it. Times are on upstream's clock."""

    id: UpstreamId
    total: int
    created_at: Ms
    expires_at: Ms
    ended_at: Ms | None
    ended: bool
    canceling: bool
    results_readable: bool
    archived: bool = False


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A listing of upstream, newest first, that reaches back far enough. ``date``: upstream's clock at its start."""

    sightings: Sequence[Sighting]
    date: Ms


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """An unknown batch and what the settlement has seen of it so far. ``window_*`` are on upstream's clock."""

    batch: Batch
    since: Ms
    window_from: Ms
    window_to: Ms | None
    absent_at: Ms | None = None
    """Our clock at the first complete listing without a candidate; cleared when one turns up."""
    absent_date: Ms | None = None
    """The same moment on upstream's clock."""


@dataclass(frozen=True, kw_only=True)
class SettlePolicy:
    grace_s: float
    absent_s: float
    """Without proof that the list is fresh, a batch is given up after this long."""


@dataclass(frozen=True, kw_only=True)
class Adopt:
    sighting: Sighting


@dataclass(frozen=True, kw_only=True)
class ReadNonces:
    """Ended look-alikes whose first result line tells whose they are."""

    sightings: Sequence[Sighting]


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Look again. ``absent`` tells whether this listing was complete and showed no candidate."""

    absent: bool


@dataclass(frozen=True, kw_only=True)
class Abandon:
    reason: str


Verdict = Adopt | ReadNonces | Wait | Abandon


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of upstream's batches. ``settled``: ids proved to be other batches of ours, or strangers'.
    ``held``: adopted for another batch of ours, and not proved yet. ``being_created``: sizes of batches whose POST is
    on its way at this moment."""

    settled: AbstractSet[UpstreamId]
    held: AbstractSet[UpstreamId]
    being_created: AbstractSet[int] = frozenset()


def settle(doubt: Doubt, listing: Listing, known: Known, policy: SettlePolicy, now: Ms) -> Verdict:
    """Judge one unknown batch by a complete listing."""
    candidates = look_alikes(doubt, listing, known)
    ended = [sighting for sighting in candidates if sighting.results_readable and sighting.id not in known.held]
    if ended:
        return ReadNonces(sightings=ended)
    if any(sighting.id in known.held for sighting in candidates):
        return Wait(absent=False)  # it may be ours, adopted for the wrong batch: its first result line will tell
    if candidates and doubt.batch.requests in known.being_created:
        return Wait(absent=False)  # it may be the other's, whose answer is still to come
    if len(candidates) == 1:
        return Adopt(sighting=candidates[0])
    if candidates:
        return Wait(absent=False)
    return _judge_absence(doubt, listing, policy, now)


def look_alikes(doubt: Doubt, listing: Listing, known: Known) -> list[Sighting]:
    """The batches of a listing that could be this one: our total, made within its window, not known to be another's."""
    return [
        sighting
        for sighting in listing.sightings
        if sighting.id not in known.settled
        and sighting.total == doubt.batch.requests
        and sighting.created_at >= after(doubt.window_from, -CREATED_AT_SLACK_S)
        and (doubt.window_to is None or sighting.created_at <= doubt.window_to)
    ]


def _judge_absence(doubt: Doubt, listing: Listing, policy: SettlePolicy, now: Ms) -> Verdict:
    if doubt.absent_at is None or doubt.absent_date is None:
        return Wait(absent=True)
    # Both clocks must agree on how much time has passed: a jump of one alone proves nothing.
    passed_s = min(seconds_between(doubt.absent_at, now), seconds_between(doubt.absent_date, listing.date))
    if passed_s < policy.grace_s:
        return Wait(absent=True)
    if passed_s >= policy.absent_s:
        return Abandon(reason=f"missing from every listing for {policy.absent_s:g} s")
    # The first listing came after our POST had ended, however it ended; what was made later still proves that this
    # listing is newer than anything our POST could have made.
    fresh = any(sighting.created_at > after(doubt.absent_date, FRESH_SLACK_S) for sighting in listing.sightings)
    if fresh:
        return Abandon(reason=f"missing from two listings {policy.grace_s:g} s apart, the later one shown to be fresh")
    return Wait(absent=True)
