"""``GET /v1/messages/batches/{id}/results``: lines made while they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal, cast

from unhurried.simulator import replies
from unhurried.simulator.answers import order, result_line
from unhurried.simulator.batch import Batch
from unhurried.simulator.endpoints.batches import check
from unhurried.simulator.errors import by_status, not_found
from unhurried.simulator.outcomes import Chance
from unhurried.simulator.wire import Disconnected, Exchange, Framing
from unhurried.simulator.world import World

LINES_A_SLICE: Final = 200
"""About a quarter of a megabyte, and a millisecond or two of the event loop."""


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """Where the answer breaks off."""

    after_lines: int
    mid_line: bool
    framing: Literal["chunked", "close"]
    reset: bool


async def results(exchange: Exchange, world: World, batch_id: str) -> None:
    """Stream the result lines of an ended batch, in an order of their own."""
    check(exchange, world)
    await world.holds.wait_here("results_start", exchange, batch_id=batch_id)
    if (error := world.faults.take("results_error", batch=batch_id)) is not None:
        raise by_status(error.whole("status"), retry_after_s=error.number("retry_after"))
    batch = world.batch(batch_id)
    now = world.clock.now()
    if not batch.has_results(now):
        raise not_found(f"Message Batch {batch_id} has no results available.")
    if world.faults.take("results_404_after_end", batch=batch_id, age_s=now - batch.ends_at) is not None:
        raise not_found(f"Message Batch {batch_id} has no results available.")
    batch.results_read += 1
    await _Streaming(exchange, world, batch).run()


class _Streaming:
    """One results call on its way."""

    def __init__(self, exchange: Exchange, world: World, batch: Batch) -> None:
        self._exchange = exchange
        self._world = world
        self._batch = batch
        self._cut = self._choose_cut()
        slow = world.faults.take("slow_results", batch=batch.id)
        self._bytes_per_s = slow.number("bytes_per_s") if slow else 0.0
        self._sent_lines = 0

    async def run(self) -> None:
        world, exchange, cut = self._world, self._exchange, self._cut
        headers = {**replies.headers(world, world.new_id("req")), "content-type": "application/x-jsonl"}
        if (wrong := world.faults.take("results_wrong_content_type", batch=self._batch.id)) is not None:
            del headers["content-type"]
            if wrong.text("type"):
                headers["content-type"] = wrong.text("type")
        framing: Framing = cut.framing if cut else "chunked"
        await exchange.start(200, headers, framing)
        lines = self._lines()
        while slice_ := self._next_slice(lines):
            if cut is not None and self._sent_lines + len(slice_) > cut.after_lines:
                await self._send_and_cut(slice_, cut)
                return
            await self._send(slice_)
        if cut is not None:  # set beyond the last line: cut there
            await self._send_and_cut([], cut)
            return
        await exchange.finish()

    def _choose_cut(self) -> _Cut | None:
        for name in ("results_cut_mid_line", "results_cut_at_line_end"):
            parameters = self._world.faults.take(name, batch=self._batch.id)
            if parameters is None:
                continue
            after = parameters.whole("after_lines")
            return _Cut(
                after_lines=len(self._batch.items) // 2 if after < 0 else after,
                mid_line=name == "results_cut_mid_line",
                framing=cast(Literal["chunked", "close"], parameters.text("framing")),
                reset=parameters.flag("reset"),
            )
        return None

    def _next_slice(self, lines: Iterator[str]) -> list[str]:
        """The next lines; fewer when the hold in the middle is nearer than a whole slice."""
        hold = self._world.holds.parameters("results_mid")
        most = LINES_A_SLICE
        if hold is not None and (before := hold.whole("after_lines") - self._sent_lines) > 0:
            most = min(most, before)
        return list(islice(lines, most))

    async def _send(self, lines: list[str]) -> None:
        data = "".join(lines).encode()
        await self._exchange.send(data)
        self._sent_lines += len(lines)
        hold = self._world.holds.parameters("results_mid")
        if hold is not None and self._sent_lines >= hold.whole("after_lines"):
            await self._world.holds.wait_here(
                "results_mid", self._exchange, batch_id=self._batch.id, lines=self._sent_lines
            )
        # Others get their turn: a fast reader would keep this loop full without ever waiting.
        await asyncio.sleep(len(data) / self._bytes_per_s if self._bytes_per_s else 0)

    async def _send_and_cut(self, lines: list[str], cut: _Cut) -> None:
        whole = cut.after_lines - self._sent_lines
        data = "".join(lines[:whole]).encode()
        if cut.mid_line and whole < len(lines):
            line = lines[whole].encode()
            data += line[: len(line) // 2]
        await self._exchange.send(data)
        self._exchange.cut(reset=cut.reset)
        raise Disconnected

    def _lines(self) -> Iterator[str]:
        """Every line with its newline, as the faults leave them."""
        world, batch = self._world, self._batch
        salt = world.settings.seed + batch.sequence
        if world.faults.take("results_shuffled", batch=batch.id) is not None:
            salt += batch.results_read
        chance = Chance(salt=salt * 0x9E3779B1 & 0xFFFFFFFF)
        missing = world.faults.take("results_missing_lines", batch=batch.id)
        twice = world.faults.take("results_duplicate_lines", batch=batch.id)
        ending = "\n\n" if world.faults.take("results_blank_lines", batch=batch.id) is not None else "\n"
        items, outcome_of = batch.items, batch.outcome
        prefix = f"msg_{batch.id.removeprefix('msgbatch_')}"
        left_out = missing.whole("count") if missing else 0
        missing_fraction = missing.number("fraction") if missing and not left_out else 0.0
        twice_fraction = twice.number("fraction") if twice else 0.0
        for index in order(len(items), salt):
            if index < left_out or (missing_fraction and chance.draw(index) < missing_fraction):
                continue
            item = items[index]
            line = result_line(item, outcome_of(item), f"{prefix}{index:06x}") + ending
            yield line
            if twice_fraction and chance.draw(index) < twice_fraction:
                yield line
