"""Joins the rooms of the simulator: every call comes here and goes to its endpoint or to the control face."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from unhurried.simulator import replies
from unhurried.simulator.control import Control
from unhurried.simulator.endpoints import batches, create, messages, models, results
from unhurried.simulator.errors import ApiError, by_status, not_found
from unhurried.simulator.wire import Disconnected, Exchange
from unhurried.simulator.world import World

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CALL_ANSWERED: Final = "simulator.call_answered"
CALL_FAILED: Final = "simulator.call_failed"

Endpoint = Callable[..., Awaitable[None]]
"""Takes the exchange, the world, and the ids in the path by name."""


class App:
    """The handler of every exchange."""

    def __init__(self, world: World) -> None:
        """``world`` is what is simulated until the first reset."""
        self.control = Control(world)

    async def handle(self, exchange: Exchange) -> None:
        """Answer ``exchange``. A bug is answered as a 500 that says so, and logged; the simulator goes on."""
        try:
            if exchange.path.startswith("/simulator/"):
                await self.control.handle(exchange)
            else:
                await self._handle_upstream(exchange)
        except Disconnected:
            exchange.keep_alive = False  # the call is over, and the ledger says how far it came
        except Exception:
            log.exception(CALL_FAILED, method=exchange.method, path=exchange.path)
            if exchange.status is None:
                bug = by_status(500, "a bug in the simulator; its log says more")
                await replies.send_error(exchange, self.control.world, bug)
            else:
                exchange.cut()

    async def _handle_upstream(self, exchange: Exchange) -> None:
        world = self.control.world
        name, endpoint, ids = _route(exchange)
        world.ledger.calls[name] += 1
        try:
            reset = world.faults.look("reset_connection")
            if reset is not None and reset.text("path") in exchange.path:
                world.faults.take("reset_connection")
                exchange.cut(reset=True)
                raise Disconnected
            await endpoint(exchange, world, **ids)
        except ApiError as error:
            await replies.send_error(exchange, world, error)
        finally:
            world.ledger.statuses[f"{name} {exchange.status or 'none'}"] += 1
            log.debug(CALL_ANSWERED, call=name, status=exchange.status, answered=exchange.answered)


def _route(exchange: Exchange) -> tuple[str, Endpoint, dict[str, str]]:
    """The name of the endpoint in ledger and log, the endpoint, and the ids in its path."""
    for name, (method, path, endpoint) in _ENDPOINTS.items():
        if method == exchange.method and (match := path.fullmatch(exchange.path)) is not None:
            return name, endpoint, match.groupdict()
    return "unknown", _unknown, {}


async def _unknown(exchange: Exchange, _world: World) -> None:
    raise not_found(f"{exchange.method} {exchange.path} is not an endpoint")


def _path(text: str) -> re.Pattern[str]:
    return re.compile(
        text.replace("{batch_id}", "(?P<batch_id>[^/]+)").replace("{model_id}", "(?P<model_id>.+)") + "/?"
    )


_ENDPOINTS: Final[Mapping[str, tuple[str, re.Pattern[str], Endpoint]]] = {
    "create": ("POST", _path("/v1/messages/batches"), create.create),
    "list": ("GET", _path("/v1/messages/batches"), batches.list_),
    "retrieve": ("GET", _path("/v1/messages/batches/{batch_id}"), batches.retrieve),
    "results": ("GET", _path("/v1/messages/batches/{batch_id}/results"), results.results),
    "cancel": ("POST", _path("/v1/messages/batches/{batch_id}/cancel"), batches.cancel),
    "delete": ("DELETE", _path("/v1/messages/batches/{batch_id}"), batches.delete),
    "messages": ("POST", _path("/v1/messages"), messages.messages),
    "count_tokens": ("POST", _path("/v1/messages/count_tokens"), messages.count_tokens),
    "models": ("GET", _path("/v1/models"), models.list_),
    "model": ("GET", _path("/v1/models/{model_id}"), models.retrieve),
}
