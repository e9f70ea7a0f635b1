"""Faults that decide how requests end, made into rules for one batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from unhurried.simulator.errors import MESSAGES
from unhurried.simulator.faults import Faults
from unhurried.simulator.outcomes import CANCELED, EXPIRED, Chance, Outcome, ResultType, Rule, errored
from unhurried.simulator.parameters import Parameters


def rules_of(faults: Faults, chance: Chance, attempts: Counter[bytes]) -> list[Rule]:
    """The rules for a new batch; a fault with ``times`` is used up by one batch, not by one request."""
    rules: list[Rule] = []
    if (parameters := faults.take("errored_first_attempts")) is not None:
        rules.append(_first_attempts(parameters, attempts))
    for name, outcome_of in _BY_SHARE.items():
        if (parameters := faults.take(name)) is not None:
            rules.append(_share(parameters, chance, outcome_of(parameters)))
    return rules


def lasts_whole_life(faults: Faults) -> bool:
    """Whether a fault that is set wants the next batch to end only at its 24 h. Asked before ``rules_of``."""
    return any(
        (parameters := faults.look(name)) is not None and parameters.flag("wait")
        for name in ("expired_some", "expired_all")
    )


def _share(parameters: Parameters, chance: Chance, outcome: Outcome) -> Rule:
    fraction, count, only = parameters.number("fraction"), parameters.whole("count"), parameters.text("model")

    def rule(index: int, model: str, _params_sha256: bytes) -> Outcome | None:
        if only and model != only:
            return None
        struck = index < count if count else chance.draw(index) < fraction
        return outcome if struck else None

    return rule


def _first_attempts(parameters: Parameters, attempts: Counter[bytes]) -> Rule:
    most, only, outcome = parameters.whole("attempts"), parameters.text("model"), _errored(parameters)

    def rule(_index: int, model: str, params_sha256: bytes) -> Outcome | None:
        if only and model != only:
            return None
        attempts[params_sha256] += 1
        return outcome if attempts[params_sha256] <= most else None

    return rule


def _errored(parameters: Parameters) -> Outcome:
    type_ = parameters.text("type")
    return errored(type_, MESSAGES.get(type_, "An error of a type that is not documented."))


_BY_SHARE: Final[dict[str, Callable[[Parameters], Outcome]]] = {
    "errored_some": _errored,
    "expired_all": lambda _: EXPIRED,
    "expired_some": lambda _: EXPIRED,
    "canceled_some": lambda _: CANCELED,
    "stop_refusal": lambda parameters: Outcome(
        ResultType.SUCCEEDED, stop_reason="refusal", refusal=parameters.text("category")
    ),
    "stop_max_tokens": lambda _: Outcome(ResultType.SUCCEEDED, stop_reason="max_tokens"),
}
