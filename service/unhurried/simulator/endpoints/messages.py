"""``POST /v1/messages`` and ``/v1/messages/count_tokens``."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec

from unhurried.simulator import params, prices, replies
from unhurried.simulator.answers import events, message_json
from unhurried.simulator.endpoints import access
from unhurried.simulator.errors import by_status, invalid
from unhurried.simulator.outcomes import SUCCEEDED, Item
from unhurried.simulator.wire import Disconnected, Exchange
from unhurried.simulator.world import World


async def messages(exchange: Exchange, world: World) -> None:
    """Answer one call in real time, as JSON or as a stream; it is billed at full price."""
    access.check_key(exchange, world)
    version = access.version(exchange)
    raw = await _json_body(exchange)
    for name, status in (("messages_429", 429), ("messages_529", 529), ("messages_500", 500)):
        if (parameters := world.faults.take(name)) is not None:
            raise by_status(status, retry_after_s=float(parameters.values.get("retry_after", 0)))
    read = params.read(raw, version=version, in_batch=False)
    if read.fault is not None:
        type_, message = read.fault
        raise by_status(404 if type_ == "not_found_error" else 400, message)
    item = _item(raw, read, world)
    world.ledger.messages.bill(item)
    if (slow := world.faults.take("slow_messages")) is not None:
        await asyncio.sleep(slow.number("seconds"))
    await world.holds.wait_here("messages", exchange)
    message_text = message_json(item, SUCCEEDED, world.new_id("msg"), "standard")
    await _answer(exchange, world, message_text, stream=read.stream)


async def count_tokens(exchange: Exchange, world: World) -> None:
    """Answer a plausible count of input tokens."""
    access.check_key(exchange, world)
    access.version(exchange)
    raw = await _json_body(exchange)
    await replies.send_json(exchange, world, {"input_tokens": prices.tokens(len(raw))})


async def _answer(exchange: Exchange, world: World, message: str, *, stream: bool) -> None:
    drop = world.faults.take("messages_then_drop")
    if not stream:
        if drop is not None:
            exchange.cut(reset=drop.flag("reset"))
            raise Disconnected
        headers = {**replies.headers(world, world.new_id("req")), "content-type": replies.JSON}
        await exchange.respond(200, headers, message.encode())
        return
    headers = {**replies.headers(world, world.new_id("req")), "content-type": "text/event-stream; charset=utf-8"}
    await exchange.start(200, headers)
    frames = list(events(msgspec.json.decode(message)))
    for n, frame in enumerate(frames):
        if drop is not None and n == len(frames) // 2:
            exchange.cut(reset=drop.flag("reset"))
            raise Disconnected
        await exchange.send(frame)
    await exchange.finish()


async def _json_body(exchange: Exchange) -> bytes:
    """The body, one JSON object. Raises ``ApiError``."""
    try:
        raw = await exchange.body()
    except ValueError:
        raise by_status(413) from None
    try:
        msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise invalid(f"request body is not valid JSON: {error}") from None
    return raw


def _item(raw: bytes, read: params.Params, world: World) -> Item:
    digest = hashlib.sha256(raw).digest()
    fewest, most = world.settings.answer_tokens
    output_tokens = min(read.max_tokens, fewest + int.from_bytes(digest[:4], "little") % (most - fewest + 1))
    return Item("", read.model, prices.tokens(len(raw)), output_tokens, digest, read.excerpt, 0.0, SUCCEEDED)
