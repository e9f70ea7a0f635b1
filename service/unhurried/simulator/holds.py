"""Holds: a connection waits at a named point until it is released, so that a test can kill the daemon right there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from unhurried.simulator.parameters import Parameters, Value, checked
from unhurried.simulator.wire import Disconnected, Exchange

POINTS: Final[Mapping[str, tuple[str, Mapping[str, Value]]]] = {
    "create_before_body": ("the head of a create has arrived, nothing of its body was read", {}),
    "create_mid_upload": ("`after_bytes` bytes of a create's body were read", {"after_bytes": 1}),
    "create_not_recorded": ("a create's body is complete, no batch exists; one is created after the release", {}),
    "create_received": ("the batch of a create exists, the answer was not sent", {}),
    "retrieve": ("a retrieve has arrived, its answer was not sent", {}),
    "list": ("a list has arrived, its answer was not sent", {}),
    "results_start": ("a results call has arrived, its answer has not begun", {}),
    "results_mid": ("`after_lines` result lines were sent", {"after_lines": 1}),
    "messages": ("a Messages call has arrived and is billed, its answer was not sent", {}),
}
"""Point → (where it is, its own parameters). Each also takes ``times`` and ``then``."""

COMMON: Final[Mapping[str, Value]] = {"times": 0, "then": "continue"}
"""``times``: how many connections are held before the hold is spent (0: all). ``then``: ``continue`` or ``drop``."""


@dataclass(eq=False)
class Hold:
    """One armed point."""

    point: str
    parameters: Parameters
    left: int | None
    """How many connections it will still hold; None for all."""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    held: list[dict[str, Any]] = field(default_factory=list)
    """Facts about each connection that waits now, JSON-able."""
    held_ever: int = 0
    somebody: asyncio.Event = field(default_factory=asyncio.Event)


class Holds:
    """All armed points."""

    def __init__(self) -> None:
        """None is armed."""
        self._holds: dict[str, Hold] = {}

    def arm(self, point: str, given: Mapping[str, Any]) -> None:
        """Hold whoever comes to ``point`` from now on. Raises ``ValueError``."""
        defaults = {**COMMON, **POINTS[point][1]}
        parameters = checked(given, defaults, point)
        if parameters.text("then") not in ("continue", "drop"):
            raise ValueError(f"{point}: then should be 'continue' or 'drop'")
        self.release(point)
        self._holds[point] = Hold(point, parameters, parameters.whole("times") or None)

    def release(self, point: str) -> int:
        """Let go whoever is held at ``point`` and disarm it; returns how many were held."""
        hold = self._holds.pop(point, None)
        if hold is None:
            return 0
        hold.released.set()
        hold.somebody.set()
        return len(hold.held)

    def release_all(self) -> None:
        """Let everybody go."""
        for point in list(self._holds):
            self.release(point)

    def parameters(self, point: str) -> Parameters | None:
        """The parameters of ``point``, or None while it holds nobody."""
        hold = self._holds.get(point)
        return None if hold is None or hold.left == 0 else hold.parameters

    async def wait_here(self, point: str, exchange: Exchange, **facts: Any) -> None:
        """Wait while ``point`` is armed. Raises ``Disconnected`` when the client leaves or the hold says ``drop``."""
        hold = self._holds.get(point)
        if hold is None or hold.left == 0:
            return
        if hold.left is not None:
            hold.left -= 1
        entry = {"method": exchange.method, "path": exchange.path, **facts}
        hold.held.append(entry)
        hold.held_ever += 1
        hold.somebody.set()
        try:
            await _first(hold.released, exchange.gone)
        finally:
            hold.held.remove(entry)
            if not hold.held:
                hold.somebody.clear()
        if exchange.gone.is_set():
            raise Disconnected
        if hold.parameters.text("then") == "drop":
            exchange.cut()
            raise Disconnected

    async def somebody(self, point: str, wait_s: float) -> None:
        """Wait at most ``wait_s`` real seconds until somebody is held at ``point``, or it is released."""
        hold = self._holds.get(point)
        if hold is None or wait_s <= 0:
            return
        try:
            async with asyncio.timeout(wait_s):
                await hold.somebody.wait()
        except TimeoutError:
            return  # the answer shows that nobody is held

    def shown(self, point: str) -> dict[str, Any]:
        """``{"point", "where", "armed", "parameters", "held", "held_ever"}``. Raises ``KeyError``."""
        where = POINTS[point][0]
        hold = self._holds.get(point)
        if hold is None:
            return {"point": point, "where": where, "armed": False, "parameters": {}, "held": [], "held_ever": 0}
        return {
            "point": point,
            "where": where,
            "armed": hold.left != 0,
            "parameters": dict(hold.parameters.values),
            "held": list(hold.held),
            "held_ever": hold.held_ever,
        }


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of ``events`` is set."""
    waiters = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
