"""A queue and its settings. Each setting may be left to the daemon: ``None`` is "what the daemon's own settings say".

What a queue may say of itself is checked here: a request that gets these as its defaults needs no second look.
"""

from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import msgspec

from unhurried.clock import Ms
from unhurried.domain.request import (
    PRIORITY_MAX,
    PRIORITY_MIN,
    QUEUE_NAME,
    VERSION,
    WAIT_MAX_S,
    Defaults,
    Refusal,
    betas,
    check_destination,
)

LINGER_MAX_S: Final = 7 * 86_400.0
BATCH_REQUESTS_MAX: Final = 100_000
BATCH_BYTES_MIN, BATCH_BYTES_MAX = 1_000, 256_000_000
"""Upstream's limits for one batch (docs/architecture.md, What a group is)."""
DAYS_MAX: Final = 36_500.0
COUNT_MAX: Final = 1_000_000_000
REASON_CHARS_MAX: Final = 500


@dataclass(frozen=True, kw_only=True)
class QueueSettings:
    """What a queue says of itself, or, as the daemon's, what holds where it says nothing. Columns of ``queues``."""

    linger_s: float | None = None
    batch_requests_max: int | None = None
    batch_bytes_max: int | None = None
    deadline_s: float | None = None
    attempts_max: int | None = None
    priority: int | None = None
    deliver_to: str | None = None
    """None in the daemon's too: the queue's own ``pull:NAME``."""
    anthropic_version: str | None = None
    anthropic_beta: str | None = None
    open_requests_max: int | None = None
    """None in the daemon's too: a queue has no limit of its own."""
    retention_days: float | None = None
    unread_days: float | None = None
    """None in the daemon's too: for ever."""


SETTINGS: Final = tuple(field.name for field in fields(QueueSettings))
_BOUNDS: Final[Mapping[str, tuple[type, float, float]]] = {
    "linger_s": (float, 0, LINGER_MAX_S),
    "batch_requests_max": (int, 1, BATCH_REQUESTS_MAX),
    "batch_bytes_max": (int, BATCH_BYTES_MIN, BATCH_BYTES_MAX),
    "deadline_s": (float, 1, WAIT_MAX_S),
    "attempts_max": (int, 1, 100),
    "priority": (int, PRIORITY_MIN, PRIORITY_MAX),
    "open_requests_max": (int, 0, COUNT_MAX),
    "retention_days": (float, 0, DAYS_MAX),
    "unread_days": (float, 0, DAYS_MAX),
}


@dataclass(frozen=True, kw_only=True)
class Queue:
    """A queue as it is on disk. ``requests`` counts by stored state, those that are none left out."""

    id: int
    name: str
    settings: QueueSettings
    created_at: Ms
    paused_at: Ms | None = None
    pause_reason: str | None = None
    requests: Mapping[str, int]


def effective(name: str, own: QueueSettings, daemon: QueueSettings) -> QueueSettings:
    """What holds for a queue: its own setting where it has one, else the daemon's."""
    given = {name: value for name, value in asdict(own).items() if value is not None}
    merged = {**asdict(daemon), **given}
    merged["deliver_to"] = merged["deliver_to"] or f"pull:{name}"
    return QueueSettings(**merged)


def defaults(own: QueueSettings, daemon: Defaults) -> Defaults:
    """What a request of this queue gets where its caller says nothing."""
    names = ("deadline_s", "attempts_max", "priority", "deliver_to", "anthropic_version", "anthropic_beta")
    given = {name: value for name in names if (value := getattr(own, name)) is not None}
    return msgspec.structs.replace(daemon, **given)


def check_name(name: str) -> str:
    """Raises ``Refusal`` for what cannot be the name of a queue."""
    if not QUEUE_NAME.fullmatch(name):
        raise Refusal("invalid_request", f"queue {name[:80]!r} must match {QUEUE_NAME.pattern}", "queue")
    return name


def check_changes(changes: Mapping[str, Any], webhooks: Container[str]) -> dict[str, Any]:
    """Settings as they are to be stored; ``None`` hands one back to the daemon. Raises ``Refusal`` for an unknown name
    or an impossible value, naming the field. ``webhooks``: the destinations that there are."""
    return {name: _checked(name, value, webhooks) for name, value in changes.items()}


def told(changes: Mapping[str, Any], before: QueueSettings) -> str:
    """What a change did, for its event: ``linger_s 300 → 30, priority 2 → default``; empty when it did nothing."""
    said = [
        f"{name} {_shown(getattr(before, name))} → {_shown(value)}"
        for name, value in changes.items()
        if getattr(before, name) != value
    ]
    return ", ".join(said)


def _checked(name: str, value: Any, webhooks: Container[str]) -> Any:
    if name not in SETTINGS:
        raise Refusal("invalid_request", f"a queue has no setting {name[:80]!r}; there are {', '.join(SETTINGS)}", name)
    if value is None:
        return None
    match name:
        case "deliver_to":
            return check_destination(_text(name, value), "", webhooks)
        case "anthropic_version":
            if not VERSION.fullmatch(_text(name, value)):
                raise Refusal("invalid_request", f"anthropic_version {value[:40]!r} is not a date", name)
            return value
        case "anthropic_beta":
            return betas(_list(name, value))
        case _:
            return _number(name, value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise Refusal("invalid_request", f"{name} must be a string or null", name)
    return value


def _list(name: str, value: Any) -> list[str]:
    """Names in a list, or in one string with commas."""
    found = value.split(",") if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise Refusal("invalid_request", f"{name} must be a list of strings, a string or null", name)
    return found


def _number(name: str, value: Any) -> float:
    kind, low, high = _BOUNDS[name]
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not isinstance(value, int | float) or (kind is int and not whole):
        raise Refusal("invalid_request", f"{name} must be a {'whole ' if kind is int else ''}number or null", name)
    if not low <= value <= high:
        raise Refusal("invalid_request", f"{name} must be between {low:,g} and {high:,.0f}, not {value:,g}", name)
    made: float = kind(value)
    return made


def _shown(value: object) -> str:
    return "default" if value is None else str(value)
