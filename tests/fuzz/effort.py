"""How hard the fuzzing tries. ``UNHURRIED_TEST_FUZZ_EXAMPLES`` makes it long, and random; else it is short, and always
the same."""

import os

from hypothesis import HealthCheck, settings

EXAMPLES = os.environ.get("UNHURRIED_TEST_FUZZ_EXAMPLES")


def effort(short: int) -> settings:
    """``short``: the examples of the short form."""
    return settings(
        max_examples=int(EXAMPLES or short),
        derandomize=EXAMPLES is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
