"""Retrieve, list, cancel and delete of batches."""

from __future__ import annotations

import asyncio
from typing import Final

from unhurried.simulator import replies
from unhurried.simulator.batch import Batch, Status
from unhurried.simulator.endpoints import access
from unhurried.simulator.errors import by_status, invalid, not_found
from unhurried.simulator.wire import Disconnected, Exchange
from unhurried.simulator.world import World

LIMIT_DEFAULT: Final = 20
LIMIT_MAX: Final = 1000


async def retrieve(exchange: Exchange, world: World, batch_id: str) -> None:
    """``GET /v1/messages/batches/{id}``."""
    check(exchange, world)
    await world.holds.wait_here("retrieve", exchange, batch_id=batch_id)
    poll_faults(exchange, world, batch_id)
    batch = world.batch(batch_id)
    now = world.clock.now()
    if world.faults.take("retrieve_404_after_create", batch=batch_id, age_s=now - batch.created_at) is not None:
        raise not_found(f"Message Batch {batch_id} not found.")
    await replies.send_json(exchange, world, batch.shown(now))


async def list_(exchange: Exchange, world: World) -> None:
    """``GET /v1/messages/batches``, newest first."""
    check(exchange, world)
    await world.holds.wait_here("list", exchange)
    if (slow := world.faults.take("slow_list")) is not None:
        await asyncio.sleep(slow.number("seconds"))
    poll_faults(exchange, world, "")
    limit = _limit(exchange.query.get("limit"))
    now = world.clock.now()
    page, has_more = _page(_visible(world, now), exchange, limit, now)
    await replies.send_json(
        exchange,
        world,
        {
            "data": [batch.shown(now) for batch in page],
            "has_more": has_more,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        },
    )


async def cancel(exchange: Exchange, world: World, batch_id: str) -> None:
    """``POST /v1/messages/batches/{id}/cancel``. Again is harmless; after the end it is refused."""
    check(exchange, world)
    batch = world.batch(batch_id)
    now = world.clock.now()
    if batch.status(now) is Status.ENDED:
        raise invalid(f"Batch {batch_id} has already ended and cannot be canceled.")
    batch.cancel(now, world.settings.cancel_takes_s)
    await replies.send_json(exchange, world, batch.shown(now))


async def delete(exchange: Exchange, world: World, batch_id: str) -> None:
    """``DELETE /v1/messages/batches/{id}``, only after its end."""
    check(exchange, world)
    batch = world.batch(batch_id)
    now = world.clock.now()
    if batch.status(now) is not Status.ENDED:
        raise invalid(f"Batch {batch_id} cannot be deleted while it is {batch.status(now)}; cancel it first.")
    batch.deleted_at = now
    await replies.send_json(exchange, world, {"id": batch_id, "type": "message_batch_deleted"})


def check(exchange: Exchange, world: World) -> None:
    """What every call to a batch endpoint must have. Raises ``ApiError``."""
    access.check_key(exchange, world)
    access.version(exchange)
    world.count_call()


def poll_faults(exchange: Exchange, world: World, batch_id: str) -> None:
    """Fail as the faults for retrieve and list say; ``batch_id`` is empty for a list."""
    for name, status in (("poll_429", 429), ("poll_529", 529), ("poll_500", 500)):
        if (parameters := world.faults.take(name, batch=batch_id)) is not None:
            raise by_status(status, retry_after_s=float(parameters.values.get("retry_after", 0)))
    if (parameters := world.faults.take("poll_drop", batch=batch_id)) is not None:
        exchange.cut(reset=parameters.flag("reset"))
        raise Disconnected


def _visible(world: World, now: float) -> list[Batch]:
    """Newest first; deleted ones too, which only serve as cursors."""
    batches = world.listed()
    lag = world.faults.take("list_lag")
    if lag is None:
        return batches
    return [batch for batch in batches if now - batch.created_at >= lag.number("seconds")]


def _page(batches: list[Batch], exchange: Exchange, limit: int, now: float) -> tuple[list[Batch], bool]:
    """The page that the cursors ask for, and whether there is more in that direction. Raises ``ApiError``."""
    after_id, before_id = exchange.query.get("after_id"), exchange.query.get("before_id")
    if after_id and before_id:
        raise invalid("only one of after_id and before_id can be given")
    if before_id:
        newer = [batch for batch in batches[: _position(batches, before_id, "before_id")] if not batch.is_deleted(now)]
        return newer[-limit:], len(newer) > limit
    start = _position(batches, after_id, "after_id") + 1 if after_id else 0
    older = [batch for batch in batches[start:] if not batch.is_deleted(now)]
    return older[:limit], len(older) > limit


def _position(batches: list[Batch], batch_id: str, parameter: str) -> int:
    for position, batch in enumerate(batches):
        if batch.id == batch_id:
            return position
    raise invalid(f"{parameter}: no such Message Batch: {batch_id}")


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT_DEFAULT
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= LIMIT_MAX:
        raise invalid(f"limit: Input should be between 1 and {LIMIT_MAX}")
    return int(text)
