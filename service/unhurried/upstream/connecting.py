"""Open the door to upstream without holding up whoever is already being served."""

import asyncio
from collections.abc import Callable

from unhurried.clock import Ms
from unhurried.settings import UpstreamSettings
from unhurried.upstream.calls import Upstream

OnAnswer = Callable[[str | None, Ms | None], None]
"""Told of every HTTP answer: upstream's workspace id and its ``Date``, each ``None`` where it sent none."""
OnCall = Callable[[str, int | None, float], None]
"""Told of every call: which it was (``create``, ``list``, …), the status of its answer or ``None``, and the seconds
until its head was there, the upload included."""


async def connect(settings: UpstreamSettings, on_answer: OnAnswer, on_call: OnCall = lambda *_: None) -> Upstream:
    """Import the SDK and build its client, in a thread; nothing is sent yet.

    Raises ``UpstreamTrouble`` when the SDK finds no usable credential.
    """
    return await asyncio.to_thread(_build, settings, on_answer, on_call)


def _build(settings: UpstreamSettings, on_answer: OnAnswer, on_call: OnCall) -> Upstream:
    from unhurried.upstream import patient, wire  # noqa: PLC0415  # they import the SDK: seconds

    patient.warm_up()
    return Upstream(wire.Wire(settings, on_answer, on_call))
