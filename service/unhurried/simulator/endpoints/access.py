"""Who may call: the checks of headers that every endpoint shares."""

from __future__ import annotations

from unhurried.simulator.errors import by_status, invalid
from unhurried.simulator.params import VERSIONS
from unhurried.simulator.wire import Exchange
from unhurried.simulator.world import WORKSPACE_ID, World


def check_key(exchange: Exchange, world: World) -> None:
    """Raise ``ApiError`` 401 without a key, or with one that the simulator was not started with."""
    scheme, _, bearer = exchange.headers.get("authorization", "").partition(" ")
    key = exchange.headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")
    if not key:
        raise by_status(401, "x-api-key header or bearer token is required")
    if world.settings.api_keys and key not in world.settings.api_keys:
        raise by_status(401, "invalid x-api-key")
    workspace = exchange.headers.get("anthropic-workspace-id", WORKSPACE_ID)
    if workspace != WORKSPACE_ID:
        raise by_status(403, f"anthropic-workspace-id: this credential belongs to {WORKSPACE_ID}")


def version(exchange: Exchange) -> str:
    """The API version asked for. Raises ``ApiError`` 400 when there is none, or one that does not exist."""
    asked = exchange.headers.get("anthropic-version")
    if asked is None:
        raise invalid("anthropic-version: header is required")
    if asked not in VERSIONS:
        raise invalid(f'anthropic-version: "{asked}" is not a valid version for this endpoint')
    return asked
