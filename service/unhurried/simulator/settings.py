"""What a simulator is told at its start, or at a reset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Times are simulated seconds unless a name says otherwise."""

    seed: int = 0
    speed: float = 1.0
    """Simulated seconds per real second."""
    clock_offset_s: float = 0.0
    """How far ahead of ours upstream's clock starts; below 0 it is behind."""
    turnaround_s: float = 120.0
    """The longest a request takes, of a model that has no turnaround of its own."""
    turnaround_by_model_s: Mapping[str, float] = field(default_factory=dict)
    cancel_takes_s: float = 5.0
    """How long a batch is `canceling`."""
    api_keys: tuple[str, ...] = ()
    """The keys that are accepted; empty accepts any, but there must be one."""
    queue_limit: int = 500_000
    """Most requests in batches that have not ended."""
    rate_limit: int = 0
    """Most calls to the batch endpoints per simulated minute; 0 does not count them."""
    check_params: bool = False
    """Refuse a create for bad params instead of ending those requests `errored`."""
    answer_tokens: tuple[int, int] = (50, 400)
    """Fewest and most output tokens of an answer; a token is four characters."""

    def turnaround_of(self, model: str) -> float:
        """The longest a request to ``model`` takes."""
        return self.turnaround_by_model_s.get(model, self.turnaround_s)


def parse_turnarounds(texts: Iterable[str]) -> dict[str, Any]:
    """``60``, ``90m`` or ``claude-haiku-4-5=30`` → the two turnaround settings. Raises ``ValueError``."""
    settings: dict[str, Any] = {"turnaround_by_model_s": {}}
    for text in texts:
        model, equals, duration = text.rpartition("=")
        if equals:
            settings["turnaround_by_model_s"][model] = parse_duration(duration)
        else:
            settings["turnaround_s"] = parse_duration(duration)
    return settings


def parse_duration(text: str) -> float:
    """Seconds from ``90``, ``90s``, ``2m``, ``30h`` or ``1d``. Raises ``ValueError``."""
    number, unit = (text[:-1], UNITS_S[text[-1]]) if text[-1:] in UNITS_S else (text, 1.0)
    try:
        seconds = float(number) * unit
    except ValueError:
        raise ValueError(f"a duration is like 90, 90s, 2m, 30h or 1d, not {text!r}") from None
    if seconds < 0:
        raise ValueError(f"a duration is not negative: {text!r}")
    return seconds
