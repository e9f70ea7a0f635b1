"""Named faults: the one table of them, and which are set now.

Each fault is set with parameters, strikes ``times`` times (0: always), and only with ``probability``. ``FAULTS`` is the
documentation: ``GET /simulator/faults`` and ``docs/simulator.md`` show it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from unhurried.simulator.parameters import Parameters, Value, checked


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kind of fault: what it does and what it can be told."""

    says: str
    times: int
    """How often it strikes unless told otherwise; 0 is always."""
    parameters: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An error that a fault answers with."""

    status: int
    message: str = ""
    """Empty for upstream's usual one."""
    code: str = ""
    html: bool = False
    """The body is a CDN's page, there is no request id."""


@dataclass(frozen=True, kw_only=True)
class CreateFault:
    """A fault that decides how a create ends: whether a batch exists, and what the client hears."""

    says: str
    recorded: bool
    answer: Answer | None
    """None cuts the connection."""
    stranger: bool = False
    """A stranger's batch of the same number of requests appears."""
    parameters: Mapping[str, Value] = field(default_factory=dict)


_EARLY: Final[Mapping[str, Value]] = {"after_bytes": 0}
"""Above 0 the fault strikes while the upload is running, after that many bytes."""
_RETRY: Final[Mapping[str, Value]] = {"retry_after": 0.0}
"""Seconds; 0 sends no such header."""
_RESET: Final[Mapping[str, Value]] = {"reset": False}
"""Cut by a TCP RST instead of a FIN."""

CREATES: Final[Mapping[str, CreateFault]] = {
    "create_then_drop": CreateFault(
        says="the batch is created, the connection is cut without an answer",
        recorded=True,
        answer=None,
        parameters=_RESET,
    ),
    "create_then_500": CreateFault(
        says="the batch is created, the answer is a 500", recorded=True, answer=Answer(status=500)
    ),
    "create_late": CreateFault(
        says="the connection is cut; the batch appears `seconds` (simulated) later",
        recorded=True,
        answer=None,
        parameters={"seconds": 30.0, **_RESET},
    ),
    "create_lost": CreateFault(
        says="nothing is created, the connection is cut without an answer",
        recorded=False,
        answer=None,
        parameters={**_EARLY, **_RESET},
    ),
    "create_lost_with_stranger": CreateFault(
        says="nothing is created, the connection is cut, and a stranger's batch of as many requests appears",
        recorded=False,
        answer=None,
        stranger=True,
        parameters=_RESET,
    ),
    "create_500_with_stranger": CreateFault(
        says="nothing is created, the answer is a 500, and a stranger's batch of as many requests appears",
        recorded=False,
        answer=Answer(status=500),
        stranger=True,
    ),
    "create_500": CreateFault(
        says="nothing is created, the answer is a 500", recorded=False, answer=Answer(status=500), parameters=_EARLY
    ),
    "create_529": CreateFault(
        says="nothing is created, upstream is overloaded", recorded=False, answer=Answer(status=529), parameters=_RETRY
    ),
    "create_429": CreateFault(
        says="nothing is created, rate limited", recorded=False, answer=Answer(status=429), parameters=_RETRY
    ),
    "create_413_html": CreateFault(
        says="a CDN refuses the size with a page of HTML, without a request id",
        recorded=False,
        answer=Answer(status=413, html=True),
        parameters=_EARLY,
    ),
    "create_400_cut_body": CreateFault(
        says="a proxy has cut the upload",
        recorded=False,
        answer=Answer(status=400, message="request body is not valid JSON: unexpected end of input"),
    ),
    "create_400_names_request": CreateFault(
        says="the request at position `index` is refused",
        recorded=False,
        answer=Answer(status=400, message="requests.{index}.params.{message}"),
        parameters={"index": 0, "message": "messages: at least one message is required"},
    ),
    "create_400_unexplained": CreateFault(
        says="refused without saying why", recorded=False, answer=Answer(status=400, message="Bad request")
    ),
    "create_spend_limit": CreateFault(
        says="the account's own spend limit is reached",
        recorded=False,
        answer=Answer(
            status=400,
            message="You have reached your specified API usage limits. "
            "You will regain access on 2026-12-01 at 00:00 UTC.",
        ),
    ),
    "create_401": CreateFault(says="the key is refused", recorded=False, answer=Answer(status=401)),
    "create_402": CreateFault(says="billing trouble", recorded=False, answer=Answer(status=402)),
    "create_403": CreateFault(says="the key may not do this", recorded=False, answer=Answer(status=403)),
    "create_404": CreateFault(says="no such endpoint", recorded=False, answer=Answer(status=404)),
    "create_error": CreateFault(
        says="any other answer: `status`, `message`, `code`; `recorded` says whether the batch exists all the same",
        recorded=False,
        answer=Answer(status=500),
        parameters={"status": 503, "message": "", "code": "", "recorded": False, **_RETRY, **_EARLY},
    ),
}
"""At most one of these decides a create; the first that is set wins. Each strikes once unless told otherwise."""

_SHARE: Final[Mapping[str, Value]] = {"fraction": 1.0, "count": 0, "model": ""}
"""Which requests of a batch: the first `count`, or, when that is 0, a `fraction`; of one `model`, or of all."""
_WHICH: Final[Mapping[str, Value]] = {"batch": ""}
"""One batch id, or all."""
_BEGINNING: Final[Mapping[str, Value]] = {"after_lines": -1}
"""-1: after half of them."""

OTHERS: Final[Mapping[str, Fault]] = {
    # what becomes of requests; decided at the create, `times` counts batches
    "errored_some": Fault(
        says="requests end `errored` with error type `type`", times=0, parameters={**_SHARE, "type": "api_error"}
    ),
    "errored_first_attempts": Fault(
        says="the first `attempts` requests with the same params (by digest, over all batches) end `errored`",
        times=0,
        parameters={"attempts": 1, "type": "overloaded_error", "model": ""},
    ),
    "expired_some": Fault(
        says="requests expire; with `wait` the batch ends at its 24 h, otherwise as usual",
        times=0,
        parameters={**_SHARE, "fraction": 0.5, "wait": False},
    ),
    "expired_all": Fault(says="all requests expire", times=0, parameters={**_SHARE, "wait": False}),
    "canceled_some": Fault(says="requests are canceled by upstream", times=0, parameters={**_SHARE, "fraction": 0.5}),
    "stop_refusal": Fault(
        says="answers stop with `refusal`", times=0, parameters={**_SHARE, "category": "general_harms"}
    ),
    "stop_max_tokens": Fault(says="answers stop with `max_tokens`", times=0, parameters=_SHARE),
    # what becomes of a batch after its create
    "batch_deleted": Fault(
        says="someone deletes the batch `seconds` (simulated) after its creation", times=1, parameters={"seconds": 0.0}
    ),
    "slow_create": Fault(
        says="the batch is created, the answer comes `seconds` (real) late", times=1, parameters={"seconds": 2.0}
    ),
    "slow_upload": Fault(
        says="the body of a create is read at `bytes_per_s`", times=1, parameters={"bytes_per_s": 1_000_000}
    ),
    # lists and retrieves
    "slow_list": Fault(says="a list takes `seconds` (real)", times=0, parameters={"seconds": 2.0}),
    "list_lag": Fault(
        says="batches younger than `seconds` (simulated) are missing from lists", times=0, parameters={"seconds": 30.0}
    ),
    "retrieve_404_after_create": Fault(
        says="404 for a batch younger than `seconds` (simulated; 0: of any age)",
        times=0,
        parameters={"seconds": 30.0, **_WHICH},
    ),
    "poll_429": Fault(says="retrieve and list are rate limited", times=1, parameters={**_RETRY, **_WHICH}),
    "poll_529": Fault(says="retrieve and list are overloaded", times=1, parameters={**_RETRY, **_WHICH}),
    "poll_500": Fault(says="retrieve and list fail", times=1, parameters=_WHICH),
    "poll_drop": Fault(says="retrieve and list are cut without an answer", times=1, parameters={**_RESET, **_WHICH}),
    # results
    "results_404_after_end": Fault(
        says="404 for results of a batch that ended less than `seconds` (simulated; 0: any time) ago",
        times=0,
        parameters={"seconds": 30.0, **_WHICH},
    ),
    "results_error": Fault(
        says="results are answered with `status`", times=1, parameters={"status": 500, **_RETRY, **_WHICH}
    ),
    "results_cut_mid_line": Fault(
        says="the connection is cut inside a line, after `after_lines` whole ones; `framing` is chunked or close",
        times=1,
        parameters={**_BEGINNING, "framing": "chunked", **_RESET, **_WHICH},
    ),
    "results_cut_at_line_end": Fault(
        says="the connection is cut after `after_lines` lines; framed by `close` nobody can tell from the connection",
        times=1,
        parameters={**_BEGINNING, "framing": "close", **_RESET, **_WHICH},
    ),
    "results_duplicate_lines": Fault(
        says="a `fraction` of the lines comes twice", times=1, parameters={"fraction": 0.5, **_WHICH}
    ),
    "results_missing_lines": Fault(
        says="a `fraction` of the lines is left out, or the first `count`",
        times=1,
        parameters={"fraction": 0.5, "count": 0, **_WHICH},
    ),
    "results_shuffled": Fault(says="the lines come in another order at each reading", times=0, parameters=_WHICH),
    "results_blank_lines": Fault(says="a blank line follows each line", times=1, parameters=_WHICH),
    "results_wrong_content_type": Fault(
        says="`type` instead of application/x-jsonl; empty sends none",
        times=0,
        parameters={"type": "application/octet-stream", **_WHICH},
    ),
    "slow_results": Fault(says="results come at `bytes_per_s`", times=0, parameters={"bytes_per_s": 100_000, **_WHICH}),
    # Messages API, and anything
    "messages_429": Fault(says="a Messages call is rate limited", times=1, parameters=_RETRY),
    "messages_529": Fault(says="a Messages call meets overload", times=1, parameters=_RETRY),
    "messages_500": Fault(says="a Messages call fails", times=1),
    "messages_then_drop": Fault(
        says="a Messages call is billed, the connection is cut; a stream in its middle", times=1, parameters=_RESET
    ),
    "slow_messages": Fault(says="a Messages call takes `seconds` (real)", times=0, parameters={"seconds": 1.0}),
    "date_skew": Fault(
        says="the `Date` of answers is `seconds` (simulated) ahead of the clock that dates batches, or behind it",
        times=0,
        parameters={"seconds": 5.0},
    ),
    "reset_connection": Fault(
        says="any call under /v1 whose path contains `path` is cut by a TCP RST before it is read",
        times=1,
        parameters={"path": ""},
    ),
}

COMMON: Final[Mapping[str, Value]] = {"times": 0, "probability": 1.0}


def kinds() -> dict[str, Fault]:
    """All faults by name."""
    creates = {name: Fault(says=fault.says, times=1, parameters=fault.parameters) for name, fault in CREATES.items()}
    return {**creates, **OTHERS}


FAULTS: Final[Mapping[str, Fault]] = kinds()


@dataclass(eq=False)
class _Set:
    """One fault that is set now."""

    parameters: Parameters
    left: int | None
    """How often it will still strike; None for always."""
    struck: int = 0


class Faults:
    """Which faults are set."""

    def __init__(self, seed: int) -> None:
        """None is set. ``seed`` decides who is struck by a fault with a probability."""
        self._random = random.Random(f"faults {seed}")
        self._set: dict[str, _Set] = {}
        self._struck: Counter[str] = Counter()

    def put(self, name: str, given: Mapping[str, Any]) -> None:
        """Set fault ``name``, instead of what it was set to. Raises ``ValueError``."""
        self.put_all({name: given})

    def put_all(self, wanted: Mapping[str, Mapping[str, Any]]) -> None:
        """Set several faults, or none of them when one is wrong. Raises ``ValueError``."""
        for name, parameters in {name: _checked(name, given) for name, given in wanted.items()}.items():
            self._set[name] = _Set(parameters, parameters.whole("times") or None)

    def clear(self, name: str | None = None) -> None:
        """Clear one fault, or all. One that is not set is no error."""
        if name is None:
            self._set.clear()
        else:
            self._set.pop(name, None)

    def take(self, name: str, *, batch: str = "", age_s: float | None = None) -> Parameters | None:
        """The parameters of ``name`` if it strikes now, which counts.

        A fault set for another ``batch`` does not strike, nor one whose ``seconds`` are over at ``age_s``.
        """
        fault = self._set.get(name)
        if fault is None or fault.left == 0:
            return None
        parameters = fault.parameters
        wanted = parameters.values.get("batch")
        if wanted and wanted != batch:
            return None
        if age_s is not None and 0 < parameters.number("seconds") <= age_s:
            return None
        probability = parameters.number("probability")
        if probability < 1 and self._random.random() >= probability:
            return None
        fault.struck += 1
        self._struck[name] += 1
        if fault.left is not None:
            fault.left -= 1
        return parameters

    def look(self, name: str) -> Parameters | None:
        """The parameters of ``name`` if it could strike now, without striking."""
        fault = self._set.get(name)
        return None if fault is None or fault.left == 0 else fault.parameters

    def shown(self) -> dict[str, Any]:
        """``{"set": {name: {"parameters", "left", "struck"}}, "struck": {name: times}}``; ``left`` is null for always.

        The second ``struck`` counts since the start or the last reset, faults that were cleared since among them.
        """
        return {
            "struck": dict(self._struck),
            "set": {
                name: {"parameters": dict(fault.parameters.values), "left": fault.left, "struck": fault.struck}
                for name, fault in self._set.items()
            },
        }


def defaults(name: str) -> dict[str, Value]:
    """The parameters of fault ``name`` with their defaults. Raises ``KeyError``."""
    fault = FAULTS[name]
    return {**COMMON, **fault.parameters, "times": fault.times}


def _checked(name: str, given: Mapping[str, Any]) -> Parameters:
    if name not in FAULTS:
        raise ValueError(f"there is no fault {name!r}; there are {', '.join(FAULTS)}")
    parameters = checked(given, defaults(name), name)
    if parameters.values.get("framing", "close") not in ("chunked", "close"):
        raise ValueError(f"{name}: framing should be 'chunked' or 'close'")
    return parameters


def table() -> dict[str, Any]:
    """``{name: {"says", "parameters": defaults}}`` for ``GET /simulator/faults``."""
    return {name: {"says": fault.says, "parameters": defaults(name)} for name, fault in FAULTS.items()}


def parse(text: str) -> tuple[str, dict[str, str]]:
    """``NAME[:k=v,...]`` from the command line → (name, parameters), not checked yet.

    A value cannot contain a comma; who needs one sets the fault over HTTP.
    """
    name, _, rest = text.partition(":")
    pairs = [pair.partition("=") for pair in rest.split(",") if pair]
    return name, {key.strip(): value.strip() for key, _, value in pairs}
