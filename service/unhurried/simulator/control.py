"""The control face under ``/simulator/``: what a test or an operator tells the simulator, and asks of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from unhurried.simulator import BANNER_HEADER, VERSION, faults
from unhurried.simulator.batch import Batch
from unhurried.simulator.clock import rfc3339
from unhurried.simulator.errors import ApiError, by_status, invalid, not_found
from unhurried.simulator.faults import Faults
from unhurried.simulator.holds import POINTS
from unhurried.simulator.replies import JSON
from unhurried.simulator.settings import Settings
from unhurried.simulator.wire import Exchange
from unhurried.simulator.world import World

STRANGERS_MAX: Final = 100_000
WAIT_S_MAX: Final = 600.0


class Control:
    """Answers ``/simulator/…``. Holds the world, because a reset puts a new one in its place."""

    def __init__(self, world: World) -> None:
        """``world`` is what is simulated until the first reset."""
        self.world = world

    async def handle(self, exchange: Exchange) -> None:
        """Answer one call; mistakes are answered in upstream's error shape."""
        try:
            match exchange.method, exchange.path.strip("/").split("/")[1:]:
                case "GET", ["health"]:
                    await self._send(exchange, self._health())
                case "GET", ["ledger", *rest]:
                    await self._ledger(exchange, rest)
                case _, ["faults", *names]:
                    await self._faults(exchange, names)
                case _, ["holds", *points]:
                    await self._holds(exchange, points)
                case "POST", ["advance"]:
                    await self._advance(exchange)
                case "POST", ["reset"]:
                    await self._reset(exchange)
                case _, ["batches", *rest]:
                    await self._batches(exchange, rest)
                case _:
                    raise not_found(f"{exchange.method} {exchange.path}: the simulator has no such control")
        except ApiError as error:
            await self._send(exchange, error.body("req_simulator_control"), error.status)
        except ValueError as error:  # how faults and holds refuse what they are told
            await self._send(exchange, invalid(str(error)).body("req_simulator_control"), 400)

    def _health(self) -> dict[str, Any]:
        world = self.world
        return {
            "status": "ok",
            "simulator": True,
            "says": "This is the unhurried simulator, not Anthropic's API. Nothing here is real or paid for.",
            "version": VERSION,
            "now": rfc3339(world.clock.now()),
            "speed": world.settings.speed,
            "seed": world.settings.seed,
            "settings": _shown(world.settings),
        }

    async def _ledger(self, exchange: Exchange, rest: list[str]) -> None:
        """All in one JSON object, or with ``/requests`` one line for each request created."""
        if not rest:
            split = exchange.query.get("split", "-")
            await self._send(exchange, await self.world.ledger.shown(self.world.clock.now(), split))
            return
        if rest != ["requests"]:
            raise not_found("the ledger has only /requests under it")
        await exchange.start(200, {BANNER_HEADER: VERSION, "content-type": "application/x-ndjson"})
        async for lines in self.world.ledger.requests(self.world.clock.now()):
            await exchange.send(lines)
        await exchange.finish()

    async def _faults(self, exchange: Exchange, names: list[str]) -> None:
        """GET shows; PUT of one sets it, PUT of all replaces what is set; DELETE clears one or all."""
        match exchange.method, names:
            case "GET", []:
                await self._send(exchange, {**self.world.faults.shown(), "available": faults.table()})
                return
            case "PUT", []:
                wanted = await _json(exchange)
                Faults(0).put_all(wanted)  # what is set now stays, should one be wrong
                self.world.faults.clear()
                self.world.faults.put_all(wanted)
            case "PUT", [name]:
                self.world.faults.put(name, await _json(exchange))
            case "DELETE", []:
                self.world.faults.clear()
            case "DELETE", [name]:
                _known_fault(name)
                self.world.faults.clear(name)
            case _:
                raise by_status(405, f"{exchange.method} is not possible here")
        await self._send(exchange, self.world.faults.shown())

    async def _holds(self, exchange: Exchange, points: list[str]) -> None:
        """GET shows (with ``wait`` once somebody is held), PUT arms, DELETE releases and disarms."""
        holds = self.world.holds
        match exchange.method, points:
            case "GET", []:
                await self._send(exchange, {point: holds.shown(point) for point in POINTS})
            case "DELETE", []:
                holds.release_all()
                await self._send(exchange, {point: holds.shown(point) for point in POINTS})
            case "GET", [point]:
                _known_point(point)
                await holds.somebody(point, _wait_s(exchange))
                await self._send(exchange, holds.shown(point))
            case "PUT", [point]:
                _known_point(point)
                holds.arm(point, await _json(exchange))
                await self._send(exchange, holds.shown(point))
            case "DELETE", [point]:
                _known_point(point)
                await self._send(exchange, {"released": holds.release(point)})
            case _:
                raise by_status(405, f"{exchange.method} is not possible here")

    async def _advance(self, exchange: Exchange) -> None:
        given = await _json(exchange)
        seconds = _number(given, "seconds")
        if seconds < 0:
            raise invalid("seconds: the simulated clock only moves forward")
        self.world.clock.advance(seconds)
        await self._send(exchange, {"now": rfc3339(self.world.clock.now())})

    async def _reset(self, exchange: Exchange) -> None:
        """Forget everything and start anew, with the settings that are given laid over the present ones."""
        given = await _json(exchange)
        settings = msgspec.convert({**_shown(self.world.settings), **given}, Settings)
        unknown = set(given) - set(_shown(settings))
        if unknown:
            raise invalid(f"no such settings: {', '.join(sorted(unknown))}")
        self.world.holds.release_all()
        self.world = World(settings)
        await self._send(exchange, self._health())

    async def _batches(self, exchange: Exchange, rest: list[str]) -> None:
        """POST makes a stranger's batch, POST …/end ends one now, DELETE is someone deleting it, GET shows all."""
        world = self.world
        now = world.clock.now()
        match exchange.method, rest:
            case "GET", []:
                await self._send(exchange, {"data": [_batch_shown(batch, now) for batch in world.listed()]})
            case "POST", []:
                await self._send(exchange, _batch_shown(self._stranger(await _json(exchange)), now))
            case "POST", [batch_id, "end"]:
                batch = self._found(batch_id)
                batch.end(now)
                await self._send(exchange, _batch_shown(batch, now))
            case "DELETE", [batch_id]:
                batch = self._found(batch_id)
                batch.deleted_at = now
                await self._send(exchange, _batch_shown(batch, now))
            case _:
                raise by_status(405, f"{exchange.method} is not possible here")

    def _stranger(self, given: Mapping[str, Any]) -> Batch:
        """``{"total"}`` or ``{"custom_ids"}``, and optionally ``model``, ``turnaround_s`` and ``prefix``."""
        model = str(given.get("model", "claude-haiku-4-5"))
        takes_s = _number(given, "turnaround_s") if "turnaround_s" in given else None
        custom_ids = given.get("custom_ids")
        if custom_ids is None:
            total = int(_number(given, "total"))
            prefix = str(given.get("prefix", "stranger_"))
            custom_ids = [f"{prefix}{n:06d}" for n in range(total)] if total <= STRANGERS_MAX else []
        if not isinstance(custom_ids, list) or not custom_ids or not all(isinstance(id_, str) for id_ in custom_ids):
            raise invalid(f"custom_ids should be a list of strings, or total between 1 and {STRANGERS_MAX}")
        return self.world.add_stranger(custom_ids, model, takes_s)

    def _found(self, batch_id: str) -> Batch:
        batch = self.world.find(batch_id)
        if batch is None:
            raise not_found(f"no batch {batch_id} was ever created here")
        return batch

    async def _send(self, exchange: Exchange, value: Any, status: int = 200) -> None:
        await exchange.respond(status, {BANNER_HEADER: VERSION, "content-type": JSON}, msgspec.json.encode(value))


def _batch_shown(batch: Batch, now: float) -> dict[str, Any]:
    return {
        **batch.shown(max(now, batch.created_at)),
        "stranger": batch.stranger,
        "deleted": batch.is_deleted(now),
        "results_read": batch.results_read,
    }


def _shown(settings: Settings) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(settings)
    return shown


async def _json(exchange: Exchange) -> dict[str, Any]:
    """The body, a JSON object; none is an empty one. Raises ``ApiError``."""
    body = await exchange.body()
    try:
        given: dict[str, Any] = msgspec.json.decode(body or b"{}", type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise invalid(f"the body should be a JSON object: {error}") from None
    return given


def _number(given: Mapping[str, Any], name: str) -> float:
    value = given.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(f"{name}: a number is required")
    return float(value)


def _wait_s(exchange: Exchange) -> float:
    text = exchange.query.get("wait", "0")
    try:
        return min(float(text), WAIT_S_MAX)
    except ValueError:
        raise invalid(f"wait: a number of seconds is required, not {text!r}") from None


def _known_fault(name: str) -> None:
    if name not in faults.FAULTS:
        raise not_found(f"there is no fault {name!r}; there are {', '.join(faults.FAULTS)}")


def _known_point(point: str) -> None:
    if point not in POINTS:
        raise not_found(f"there is no hold point {point!r}; there are {', '.join(POINTS)}")
