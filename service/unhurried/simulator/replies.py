"""Sends answers with the headers that upstream (and the simulator's honesty) puts on each."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from unhurried.simulator import BANNER_HEADER, VERSION
from unhurried.simulator.clock import http_date, rfc3339
from unhurried.simulator.errors import ApiError
from unhurried.simulator.faults import Answer
from unhurried.simulator.wire import Exchange
from unhurried.simulator.world import ORGANIZATION_ID, WORKSPACE_ID, World

JSON: Final = "application/json"
_CDN_PAGE: Final = (
    "<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n"
    "<center><h1>{status} {reason}</h1></center>\r\n<hr><center>simulated cdn</center>\r\n</body>\r\n</html>\r\n"
)


def headers(world: World, request_id: str) -> dict[str, str]:
    """What every answer under ``/v1`` carries."""
    limit, remaining = world.rate_shown()
    return {
        "date": _date(world),
        "request-id": request_id,
        "anthropic-organization-id": ORGANIZATION_ID,
        "anthropic-workspace-id": WORKSPACE_ID,
        "anthropic-ratelimit-requests-limit": str(limit),
        "anthropic-ratelimit-requests-remaining": str(remaining),
        "anthropic-ratelimit-requests-reset": rfc3339(world.rate_reset_at),
        BANNER_HEADER: VERSION,
    }


async def send_json(exchange: Exchange, world: World, value: Any, status: int = 200) -> None:
    """Answer ``value`` as compact JSON with all headers."""
    await exchange.respond(
        status, {**headers(world, world.new_id("req")), "content-type": JSON}, msgspec.json.encode(value)
    )


async def send_error(exchange: Exchange, world: World, error: ApiError) -> None:
    """Answer ``error`` in upstream's shape."""
    request_id = world.new_id("req")
    await exchange.respond(
        error.status,
        {**headers(world, request_id), "content-type": JSON, **error.headers},
        msgspec.json.encode(error.body(request_id)),
    )


async def send_cdn_page(exchange: Exchange, world: World, answer: Answer) -> None:
    """Answer as a CDN in front of upstream does: HTML, no request id, nothing of the account."""
    page = _CDN_PAGE.format(status=answer.status, reason="Request Entity Too Large")
    await exchange.respond(
        answer.status,
        {"date": _date(world), "content-type": "text/html", BANNER_HEADER: VERSION},
        page.encode(),
    )


def _date(world: World) -> str:
    """What the machine that answers takes for the time: it need not be the one that dates batches."""
    skew = world.faults.take("date_skew")
    return http_date(world.clock.now() + (skew.number("seconds") if skew is not None else 0.0))
