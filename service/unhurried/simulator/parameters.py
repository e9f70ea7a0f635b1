"""Parameters of faults and holds: named, typed by their defaults, told from a command line or from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Value = str | int | float | bool


@dataclass(frozen=True)
class Parameters:
    """Checked values by name; the getters say which type the caller relies on."""

    values: Mapping[str, Value]

    def number(self, name: str) -> float:
        """A number with a fraction: seconds, a share, a rate."""
        return float(self.values[name])

    def whole(self, name: str) -> int:
        """A whole number: a count, a status."""
        return int(self.values[name])

    def text(self, name: str) -> str:
        """A word or a sentence."""
        return str(self.values[name])

    def flag(self, name: str) -> bool:
        """Yes or no."""
        return bool(self.values[name])


def checked(given: Mapping[str, Any], defaults: Mapping[str, Value], whose: str) -> Parameters:
    """``defaults`` with ``given`` laid over them, each of the type of its default.

    Raises ``ValueError``, naming ``whose``, for a name that is not known or a value of another type.
    """
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise ValueError(f"{whose} has no parameter {', '.join(unknown)}; it has {', '.join(sorted(defaults))}")
    values = dict(defaults)
    for name, value in given.items():
        values[name] = _coerced(value, defaults[name], f"{whose}: {name}")
    return Parameters(values)


def _coerced(value: Any, default: Value, whose: str) -> Value:
    try:
        if isinstance(default, bool):
            return _yes(value)
        if isinstance(default, int):
            return int(value)
        if isinstance(default, float):
            return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{whose} should be like {default!r}, not {value!r}") from None
    return str(value)


def _yes(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word in ("1", "true", "yes"):
        return True
    if word in ("0", "false", "no"):
        return False
    raise ValueError(word)
