"""Open the door to upstream without holding up whoever is already being served."""

import asyncio
from collections.abc import Callable

from unhurried.clock import Ms
from unhurried.settings import UpstreamSettings
from unhurried.upstream.calls import Upstream

OnAnswer = Callable[[str | None, Ms | None], None]
"""Told of every HTTP answer: upstream's workspace id and its ``Date``, each ``None`` where it sent none."""


async def connect(settings: UpstreamSettings, on_answer: OnAnswer) -> Upstream:
    """Import the SDK and build its client, in a thread; nothing is sent yet.

    Raises ``UpstreamTrouble`` when the SDK finds no usable credential.
    """
    return await asyncio.to_thread(_build, settings, on_answer)


def _build(settings: UpstreamSettings, on_answer: OnAnswer) -> Upstream:
    from unhurried.upstream import patient, wire  # noqa: PLC0415  # they import the SDK: seconds

    patient.warm_up()
    return Upstream(wire.Wire(settings, on_answer))
