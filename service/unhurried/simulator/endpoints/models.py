"""``GET /v1/models`` and ``/v1/models/{id}``."""

from __future__ import annotations

from unhurried.simulator import prices, replies
from unhurried.simulator.endpoints import access
from unhurried.simulator.errors import not_found
from unhurried.simulator.wire import Exchange
from unhurried.simulator.world import World


async def list_(exchange: Exchange, world: World) -> None:
    """All models with a known price, on one page."""
    access.check_key(exchange, world)
    access.version(exchange)
    models = prices.models()
    page = {"data": models, "has_more": False, "first_id": models[0]["id"], "last_id": models[-1]["id"]}
    await replies.send_json(exchange, world, page)


async def retrieve(exchange: Exchange, world: World, model_id: str) -> None:
    """One model."""
    access.check_key(exchange, world)
    access.version(exchange)
    model = prices.model(model_id)
    if model is None:
        raise not_found(f"model: {model_id}")
    await replies.send_json(exchange, world, model)
