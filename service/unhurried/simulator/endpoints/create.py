"""``POST /v1/messages/batches``, with all that can go wrong around it."""

from __future__ import annotations

import asyncio
from typing import Final

from unhurried.simulator import replies
from unhurried.simulator.batch import LIFETIME_S, Batch
from unhurried.simulator.endpoints import access
from unhurried.simulator.errors import ApiError, by_status, invalid
from unhurried.simulator.faults import CREATES, CreateFault
from unhurried.simulator.intake import BODY_BYTES_MAX, Intake
from unhurried.simulator.ledger import Create
from unhurried.simulator.outcomes import Plan
from unhurried.simulator.parameters import Parameters
from unhurried.simulator.wire import Disconnected, Exchange
from unhurried.simulator.world import World

STRANGER_MODEL: Final = "claude-haiku-4-5"


async def create(exchange: Exchange, world: World) -> None:
    """Take a create from its head to its answer, and write down in the ledger how it went."""
    entry = Create(at=world.clock.now())
    world.ledger.creates.append(entry)
    try:
        await _Creating(exchange, world, entry).run()
    except ApiError as error:
        await replies.send_error(exchange, world, error)
    finally:
        entry.status = exchange.status
        entry.answered = exchange.answered
        entry.complete = exchange.complete


class _Creating:
    """One create on its way."""

    def __init__(self, exchange: Exchange, world: World, entry: Create) -> None:
        self._exchange = exchange
        self._world = world
        self._entry = entry
        self._fault: CreateFault | None = None
        self._parameters = Parameters({})

    async def run(self) -> None:
        exchange, world = self._exchange, self._world
        access.check_key(exchange, world)
        version = access.version(exchange)
        world.count_call()
        _check_head(exchange)
        await world.holds.wait_here("create_before_body", exchange)
        self._choose_fault()
        plan = world.plan()
        intake = Intake(
            version=version,
            plan=plan,
            check_params=world.settings.check_params,
            answer_tokens=world.settings.answer_tokens,
        )
        if await self._receive(intake):
            return
        intake.finish()
        self._entry.total = len(intake.items)
        self._check_queue(len(intake.items))
        await world.holds.wait_here("create_not_recorded", exchange, total=len(intake.items))
        await self._record_and_answer(intake, plan)

    def _choose_fault(self) -> None:
        for name, fault in CREATES.items():
            parameters = self._world.faults.take(name)
            if parameters is not None:
                self._entry.fault = name
                self._fault = fault
                self._parameters = parameters
                return

    async def _receive(self, intake: Intake) -> bool:
        """Read the body into ``intake``; True when a fault has answered before its end."""
        exchange, world, entry = self._exchange, self._world, self._entry
        early_bytes = int(self._parameters.values.get("after_bytes", 0))
        slow = world.faults.take("slow_upload")
        try:
            while (chunk := await exchange.read()) is not None:
                intake.feed(chunk)
                hold = world.holds.parameters("create_mid_upload")
                if hold is not None and intake.body_bytes >= hold.whole("after_bytes"):
                    await world.holds.wait_here("create_mid_upload", exchange, body_bytes=intake.body_bytes)
                if self._fault is not None and 0 < early_bytes <= intake.body_bytes:
                    await self._answer_fault(self._fault)
                    return True
                if slow is not None:
                    await asyncio.sleep(len(chunk) / slow.number("bytes_per_s"))
        finally:
            entry.body_bytes = intake.body_bytes
            entry.body_sha256 = intake.body_sha256
        return False

    def _check_queue(self, total: int) -> None:
        limit = self._world.settings.queue_limit
        if self._world.waiting_requests() + total > limit:
            raise by_status(
                429, f"Number of batch requests in the processing queue would exceed your limit of {limit}."
            )

    async def _record_and_answer(self, intake: Intake, plan: Plan) -> None:
        exchange, world, entry = self._exchange, self._world, self._entry
        fault, parameters = self._fault, self._parameters
        recorded = fault is None or fault.recorded or bool(parameters.values.get("recorded", False))
        batch: Batch | None = None
        if recorded:
            takes_s = LIFETIME_S if plan.lasts_whole_life else intake.longest_s
            late_s = float(parameters.values.get("seconds", 0)) if entry.fault == "create_late" else 0.0
            batch = entry.batch = world.add_batch(intake.items, intake.tally, takes_s, late_s=late_s)
            if (deleted := world.faults.take("batch_deleted")) is not None:
                batch.deleted_at = batch.created_at + deleted.number("seconds")
        if fault is not None and fault.stranger:
            world.add_stranger([f"stranger_{n:06d}" for n in range(entry.total)], STRANGER_MODEL)
        if (slow := world.faults.take("slow_create")) is not None:
            await asyncio.sleep(slow.number("seconds"))
        if batch is not None:
            await self._hold_received(batch)
        if fault is not None:
            await self._answer_fault(fault)
        elif batch is not None:
            await replies.send_json(exchange, world, batch.shown(world.clock.now()))

    async def _hold_received(self, batch: Batch) -> None:
        await self._world.holds.wait_here("create_received", self._exchange, batch_id=batch.id, total=len(batch.items))

    async def _answer_fault(self, fault: CreateFault) -> None:
        parameters = self._parameters
        answer = fault.answer
        if answer is None:
            self._exchange.cut(reset=bool(parameters.values.get("reset", False)))
            raise Disconnected
        if answer.html:
            await replies.send_cdn_page(self._exchange, self._world, answer)
            return
        values = parameters.values
        message = str(values.get("message", "")) if not answer.message else answer.message.format_map(dict(values))
        raise by_status(
            int(values.get("status", answer.status)),
            message,
            code=str(values.get("code", "")) or answer.code or None,
            retry_after_s=float(values.get("retry_after", 0)),
        )


def _check_head(exchange: Exchange) -> None:
    """Refuse by the head alone what upstream refuses so. Raises ``ApiError``."""
    if exchange.headers.get("content-encoding", "identity") != "identity":
        raise by_status(
            400, "content-encoding: the simulator takes no compressed bodies", code="request_body_encoding_unsupported"
        )
    if int(exchange.headers.get("content-length", "0")) > BODY_BYTES_MAX:
        raise by_status(413)
    if not exchange.headers.get("content-type", "").startswith("application/json"):
        raise invalid("content-type: must be application/json")
