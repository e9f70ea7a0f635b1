"""How long until it is worth asking upstream again."""

from collections.abc import Sequence
from dataclasses import dataclass

from unhurried.clock import Ms, seconds_between

AGE_SHARE = 0.1
"""A batch that has run for an hour is asked about every six minutes, within the bounds of the settings."""
READ_AGAIN_MAX_S = 900.0
NOT_FOUND_MIN = 3
"""So many 404s in a row, and a grace between the first and the last, before a batch counts as gone."""
RETRIEVE_MAX = 3
"""Up to this many open batches are retrieved one by one; more are seen in one listing."""


@dataclass(frozen=True, kw_only=True)
class PollPolicy:
    interval_min_s: float
    interval_max_s: float


def pause_s(ages_s: Sequence[float], policy: PollPolicy) -> float:
    """The pause before the next look, led by the youngest open batch; ``ages_s`` may be empty."""
    if not ages_s:
        return policy.interval_max_s
    return min(max(min(ages_s) * AGE_SHARE, policy.interval_min_s), policy.interval_max_s)


def retry_pause_s(failures: int, policy: PollPolicy) -> float:
    """The pause after ``failures`` calls in a row went wrong."""
    return float(min(policy.interval_min_s * 2.0 ** min(failures, 20), max(policy.interval_max_s, READ_AGAIN_MAX_S)))


def is_gone(since: Ms | None, times: int, grace_s: float, now: Ms) -> bool:
    """Whether ``times`` answers of 404 in a row, the first of them at ``since``, mean that a batch is no more."""
    return since is not None and times >= NOT_FOUND_MIN and seconds_between(since, now) >= grace_s
