"""Which faults of the simulator are struck here, and how hard: each is drawn within what the promises cover."""

import random
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.chaos.timing import DATE_SKEW_S, LATE_S, NOT_YET_S, TWIN_S
from unhurried.simulator.errors import ERROR_TYPES_IN_RESULTS

Parameters = dict[str, Any]
Draw = Callable[[random.Random], Parameters]

TWIN: Final = "late_twin"
"""Not a fault by itself: ``create_late`` beyond the settlement time."""
UNCLEAR: Final = (
    "create_then_drop", "create_then_500", "create_late", "create_lost", "create_lost_with_stranger",
    "create_500_with_stranger", "create_500", "create_error",
)  # fmt: skip
"""After these nobody knows whether a batch exists: every world has some of them."""
NOT_CALLED: Final = frozenset({"messages_429", "messages_529", "messages_500", "messages_then_drop", "slow_messages"})
"""Of a face of upstream that the daemon does not use yet."""


def _times(most: int, **parameters: Any) -> Draw:
    return lambda chance: {"times": chance.randint(1, most), **parameters}


def _cut(most: int) -> Draw:
    return lambda chance: {"times": chance.randint(1, most), "reset": chance.random() < 0.5}


def _storm(most: int) -> Draw:
    return lambda chance: {"times": chance.randint(1, most), "retry_after": chance.choice((0, 0, 1))}


def _some(chance: random.Random, **parameters: Any) -> Parameters:
    return {"times": chance.randint(1, 3), "fraction": round(chance.uniform(0.1, 0.6), 2), **parameters}


FAULTS: Final[Mapping[str, Draw]] = {
    "create_then_drop": _cut(2),
    "create_then_500": _times(2),
    "create_late": lambda chance: {"times": 1, "seconds": round(chance.uniform(0.1, LATE_S / 2), 2)},
    "create_lost": lambda chance: {**_cut(2)(chance), "after_bytes": chance.choice((0, 0, 500, 5_000))},
    "create_lost_with_stranger": _cut(1),
    "create_500_with_stranger": _times(1),
    "create_500": lambda chance: {"times": 1, "after_bytes": chance.choice((0, 1_000))},
    "create_529": _storm(5),
    "create_429": _storm(5),
    "create_413_html": lambda chance: {"times": 1, "after_bytes": chance.choice((0, 1_000))},
    "create_400_cut_body": _times(2),
    "create_400_names_request": lambda chance: {"times": 1, "index": 0},
    "create_400_unexplained": _times(2),
    "create_spend_limit": _times(1),
    "create_401": _times(2),
    "create_402": _times(1),
    "create_403": _times(1),
    "create_404": _times(1),
    "create_error": lambda chance: {
        "times": 1,
        "status": chance.choice((408, 409, 500, 502, 503, 504, 524)),
        "recorded": chance.random() < 0.5,
        "retry_after": chance.choice((0, 1)),
    },
    "errored_some": lambda chance: _some(chance, type=chance.choice(ERROR_TYPES_IN_RESULTS)),
    "errored_first_attempts": lambda chance: {
        "times": chance.randint(1, 6), "attempts": chance.randint(1, 2),
        "type": chance.choice(("overloaded_error", "api_error", "rate_limit_error", "timeout_error")),
    },
    "expired_some": _some,
    "expired_all": _times(1),
    "canceled_some": _some,
    "stop_refusal": _some,
    "stop_max_tokens": _some,
    "batch_deleted": lambda chance: {"times": 1, "seconds": round(chance.uniform(2, 12), 1)},
    "slow_create": lambda chance: {"times": chance.randint(1, 2), "seconds": round(chance.uniform(0.2, 2.5), 2)},
    "slow_upload": lambda chance: {"times": chance.randint(1, 2), "bytes_per_s": chance.randint(600_000, 2_000_000)},
    "slow_list": lambda chance: {"times": chance.randint(1, 3), "seconds": round(chance.uniform(0.2, 1.0), 2)},
    "list_lag": lambda chance: {"times": 0, "seconds": round(chance.uniform(0.1, LATE_S / 2), 2)},
    "retrieve_404_after_create": lambda chance: {"times": 0, "seconds": round(chance.uniform(0.5, NOT_YET_S), 1)},
    "poll_429": _storm(8),
    "poll_529": _storm(8),
    "poll_500": _times(5),
    "poll_drop": _cut(5),
    "results_404_after_end": lambda chance: {"times": 0, "seconds": round(chance.uniform(0.5, NOT_YET_S), 1)},
    "results_error": lambda chance: {"times": chance.randint(1, 3), "status": chance.choice((404, 429, 500, 503, 529))},
    "results_cut_mid_line": lambda chance: {
        **_cut(3)(chance), "after_lines": chance.choice((-1, 0, 1, 3)), "framing": chance.choice(("chunked", "close")),
    },
    "results_cut_at_line_end": lambda chance: {
        **_cut(3)(chance), "after_lines": chance.choice((-1, 0, 1, 3)), "framing": chance.choice(("chunked", "close")),
    },
    "results_duplicate_lines": _some,
    "results_missing_lines": lambda chance: {**_some(chance), "count": chance.choice((0, 0, 1, 3))},
    "results_shuffled": lambda chance: {"times": 0},
    "results_blank_lines": _times(4),
    "results_wrong_content_type": lambda chance: {"times": 3, "type": chance.choice(("", "text/html"))},
    "slow_results": lambda chance: {"times": chance.randint(1, 3), "bytes_per_s": chance.randint(20_000, 200_000)},
    "date_skew": lambda chance: {
        "times": 0, "probability": chance.choice((0.5, 1.0)),
        "seconds": round(chance.uniform(-DATE_SKEW_S, DATE_SKEW_S), 1),
    },
    "reset_connection": lambda chance: {"times": chance.randint(1, 3), "path": chance.choice(("", "/results"))},
    TWIN: lambda chance: {"times": 1, "seconds": TWIN_S},
}  # fmt: skip
"""Name → what it is told in one world. ``times`` is small, so that a world has many kinds of trouble."""
