"""How long until it is worth asking upstream again."""

from collections.abc import Sequence
from dataclasses import dataclass

AGE_SHARE = 0.1
"""A batch that has run for an hour is asked about every six minutes, within the bounds of the settings."""
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
    return float(min(policy.interval_min_s * 2.0 ** min(failures, 20), max(policy.interval_max_s, 60.0)))
