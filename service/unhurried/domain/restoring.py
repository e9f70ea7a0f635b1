"""A database that was restored from a copy: what upstream may have of it that the copy does not know.

What the copy calls queued may have been sent after it was made, under a nonce that it does not know. The ids of the
requests it does know. So every batch that upstream made since is looked at, once it has ended, for ids of ours.
Until then nothing is sent.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from unhurried.clock import Ms, after, seconds_between
from unhurried.domain.batch import NONCE_ALPHABET, NONCE_CHARS
from unhurried.domain.settling import CREATED_AT_SLACK_S, FRESH_SLACK_S, Known, Listing, SettlePolicy, Sighting

CLOCKS_APART_S: Final = 86_400.0
"""By how much our clock may have been wrong when the copy was made. More costs some looks at strangers' batches."""
NAMED: Final = 5
"""Batches that are named in what is told; more are counted."""

_CUSTOM_ID: Final = re.compile(
    rf"[{NONCE_ALPHABET}]{{{NONCE_CHARS}}}-[0-9a-f]{{8}}-[0-9a-f]{{4}}-7[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}"
)


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A search that is not over. ``made_at``: the last moment that the copy knows; ``found_at``: the first start on it,
    None before; ``since``: upstream's clock, what it made before the copy knows; ``first_*``: the first complete
    listing, our clock and upstream's; ``held``: nothing is submitted; ``newest_request``: the last one it knew."""

    made_at: Ms
    why: str
    found_at: Ms | None
    since: Ms
    first_at: Ms | None
    first_date: Ms | None
    held: bool
    newest_request: int
    detail: str | None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a listing shows of the time after the copy. ``readable``: ended, to be looked at now; ``running``: cannot be
    told from a stranger's before it has ended; ``vanished``: its results are no longer kept. ``complete``: whatever was
    created before the start is in the list by now."""

    readable: Sequence[Sighting]
    running: Sequence[Sighting]
    vanished: Sequence[Sighting]
    complete: bool

    @property
    def through(self) -> bool:
        return self.complete and not (self.readable or self.running or self.vanished)


def look(restored: Restored, listing: Listing, known: Known, policy: SettlePolicy, now: Ms) -> Seen:
    """Judge a complete listing. The first one has to be recorded before a second is judged."""
    first_at = restored.first_at if restored.first_at is not None else now
    first_date = restored.first_date if restored.first_date is not None else listing.date
    # Nothing of ours is sent while the search holds everything back. What was on its way when the old daemon ended may
    # arrive a little later; what is newer than that is another's.
    begin = after(restored.since, -CREATED_AT_SLACK_S)
    end = after(first_date, policy.grace_s + CREATED_AT_SLACK_S)
    since = [
        sighting
        for sighting in listing.sightings
        if begin <= sighting.created_at <= end and sighting.id not in known.settled
    ]
    # One that was adopted and is not proved: the poller proves it, or gives it back, when it has ended.
    readable = [one for one in since if one.results_readable and one.id not in known.held]
    vanished = [one for one in since if one.archived and one.id not in known.held]
    done = {one.id for one in (*readable, *vanished)}
    passed_s = min(seconds_between(first_at, now), seconds_between(first_date, listing.date))
    fresh = any(sighting.created_at > after(first_date, FRESH_SLACK_S) for sighting in listing.sightings)
    return Seen(
        readable=readable,
        running=[one for one in since if one.id not in done],
        vanished=vanished,
        complete=passed_s >= policy.absent_s or (fresh and passed_s >= policy.grace_s),
    )


def waits_for(seen: Seen, unread: Sequence[Sighting], collecting: int) -> str:
    """Why the search is not over, in words that change only when that does. ``unread``: ended, and not readable."""
    parts = [
        f"{_named(batches)} {says}"
        for batches, says in (
            (seen.running, "not ended yet: whose it is shows only then"),
            (unread, "whose results cannot be read now"),
            (seen.vanished, "whose results are no longer kept: whether it is ours cannot be told any more"),
        )
        if batches
    ]
    if collecting:
        parts.append(f"results of {collecting} found to be ours are read")
    if not parts and not seen.complete:
        parts.append("upstream's list may lag: it is read until what was sent just before the start must be in it")
    return "; ".join(parts)


def _named(batches: Sequence[Sighting]) -> str:
    names = ", ".join(sorted(batch.id for batch in batches)[:NAMED])
    more = f" and {len(batches) - NAMED} more" if len(batches) > NAMED else ""
    return f"{'batch' if len(batches) == 1 else 'batches'} {names}{more}"


def looks_like_ours(custom_id: str) -> bool:
    """Whether a custom_id has the shape of ours. A stranger may run a daemon of the same kind."""
    return _CUSTOM_ID.fullmatch(custom_id) is not None
