"""The models the simulator serves and what upstream would bill for them.

List prices in USD per million tokens: Anthropic's pricing page and batch page, copies of 2026-09-20 to
2026-10-10; Fable 5.2 from its announcement of 2026-11-09. Batch is half of every token price.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

BATCH_DISCOUNT: Final = 0.5
LONG_PROMPT_TOKENS: Final = 100_000
"""Above this many prompt tokens Haiku 5.5 bills its second row for the whole request."""


@dataclass(frozen=True)
class Price:
    """USD per million tokens in real time."""

    input: float
    output: float


_PRICES: Final[dict[str, Price]] = {
    "claude-fable-5-2": Price(8, 40),
    "claude-fable-5-1": Price(10, 50),
    "claude-mythos-5-1": Price(10, 50),
    "claude-fable-5": Price(10, 50),
    "claude-mythos-5": Price(10, 50),
    "claude-opus-5-5": Price(4, 20),
    "claude-opus-5": Price(5, 25),
    "claude-opus-4-8": Price(5, 25),
    "claude-opus-4-7": Price(5, 25),
    "claude-opus-4-6": Price(5, 25),
    "claude-opus-4-5": Price(5, 25),
    "claude-sonnet-5-5": Price(2, 10),
    "claude-sonnet-5": Price(2, 10),
    "claude-sonnet-4-6": Price(3, 15),
    "claude-sonnet-4-5": Price(3, 15),
    "claude-haiku-5-5": Price(0.10, 0.50),
    "claude-haiku-4-5": Price(1, 5),
}
_HAIKU_5_5_LONG: Final = Price(0.50, 2.50)
_NO_SAMPLING_PREFIXES: Final = (
    "claude-fable-5",
    "claude-mythos-5",
    "claude-opus-5",
    "claude-opus-4-7",
    "claude-opus-4-8",
    "claude-sonnet-5",
    "claude-haiku-5",
)


@lru_cache(maxsize=1024)
def is_served(model: str) -> bool:
    """Whether the simulator answers for ``model``: anything that looks like a Claude model, so that new ones work."""
    return re.fullmatch(r"claude-[A-Za-z0-9._@:-]+", model) is not None


def refuses_sampling(model: str) -> bool:
    """Whether ``model`` takes no ``temperature``, ``top_p`` or ``top_k`` in any API version (Opus 4.7, Sonnet 5 on)."""
    return model.startswith(_NO_SAMPLING_PREFIXES)


def tokens(json_bytes: int) -> int:
    """A plausible count of input tokens for params of that many bytes."""
    return json_bytes // 4 or 1


def cost_usd(model: str, *, long: bool, input_tokens: int, output_tokens: int) -> float | None:
    """The real-time price of these tokens, or None for a model without a known price."""
    price = _PRICES.get(model)
    if price is None:
        return None
    if long and model == "claude-haiku-5-5":
        price = _HAIKU_5_5_LONG
    return (input_tokens * price.input + output_tokens * price.output) / 1_000_000


def models() -> list[dict[str, Any]]:
    """What ``GET /v1/models`` lists, newest first as far as the reference tells."""
    return [_model(model_id) for model_id in _PRICES]


def model(model_id: str) -> dict[str, Any] | None:
    """What ``GET /v1/models/{id}`` answers, or None."""
    return _model(model_id) if model_id in _PRICES else None


def _model(model_id: str) -> dict[str, Any]:
    line, *version = model_id.removeprefix("claude-").split("-")
    return {
        "type": "model",
        "id": model_id,
        "display_name": f"Claude {line.title()} {'.'.join(version)}",
        "created_at": "1970-01-01T00:00:00Z",  # upstream's own value for an unknown release date
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": line,
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
        "capabilities": {"batch": {"supported": True}, "citations": {"supported": True}},
    }
