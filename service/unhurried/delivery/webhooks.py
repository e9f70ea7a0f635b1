"""One attempt to deliver one result by webhook."""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpcore2
from uuid_utils import uuid7

from unhurried import __version__
from unhurried.clock import Ms
from unhurried.delivery import dialing
from unhurried.delivery.failures import FAILURES, CannotSend, describe
from unhurried.delivery.names import Names
from unhurried.delivery.signing import Signer
from unhurried.domain.delivering import (
    Misconfigured,
    Outcome,
    Parcel,
    SecretRef,
    Target,
    TryAgain,
    event,
    outcome_of,
    test_event,
)
from unhurried.settings import DeliverySettings

IDLE_CONNECTIONS_MAX: Final = 64
"""Of all destinations together; of one there are at most as many as it has attempts under way at once."""
IDLE_S: Final = 15.0
DRAIN_S: Final = 1.0
"""How long the rest of an answer is waited for, so that its connection can be used again."""


class Webhooks:
    def __init__(
        self, settings: DeliverySettings, *, own_socket: Path, database: Path, environ: Mapping[str, str]
    ) -> None:
        """``own_socket`` and ``database`` are the daemon's: no webhook goes to the one, no secret is read from the
        other. ``environ`` is where secrets named ``env:…`` are looked up."""
        self._settings = settings
        self._signer = Signer(environ, database)
        folders = settings.allowed_socket_dirs
        self._folders = [own_socket.parent] if folders is None else [Path(folder) for folder in folders]
        self._unix = dialing.Unix(self._folders, own_socket)
        names = Names()
        self._plain = dialing.Tcp(names, settings.networks, public=False)
        self._public = dialing.Tcp(names, settings.networks, public=True)
        self._pools: dict[str, httpcore2.AsyncConnectionPool] = {}
        self._building = asyncio.Lock()

    async def send(self, target: Target, secrets: Sequence[SecretRef], parcel: Parcel, now: Ms) -> Outcome:
        """POST it, once, and say what came of it. Raises nothing that the receiver, the network, a secret or a setting
        can cause.

        Takes at most ``timeout_s`` and a second. Once a status has come, it decides, whatever becomes of the rest.
        """
        body = event(parcel, self._settings.result_bytes_max)
        return await self._post(target, secrets, parcel.delivery_id, parcel.attempt, body, now)

    async def test(self, target: Target, secrets: Sequence[SecretRef], now: Ms) -> Outcome:
        """The same with an event that stands for no result, and is of a type of its own."""
        id = f"test-{uuid7()}"
        return await self._post(target, secrets, id, 1, test_event(id, now), now)

    async def _post(
        self, target: Target, secrets: Sequence[SecretRef], id: str, attempt: int, body: bytes, now: Ms
    ) -> Outcome:
        try:
            signature = self._signer.headers(id, now, body, secrets)
            request = _request(target, attempt, signature, body, self._settings.connect_timeout_s)
            async with asyncio.timeout(self._settings.timeout_s):
                response = await self._answer(target, request)
        except CannotSend as refusal:
            return Misconfigured(detail=refusal.detail)
        except TimeoutError:
            return TryAgain(detail=f"{target.origin}: no answer within {self._settings.timeout_s:g} s")
        except FAILURES as error:
            return TryAgain(detail=f"{target.origin}: {describe(error)}")
        await _finish(response)
        return outcome_of(response.status, _header(response, b"retry-after"), now)

    async def aclose(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.aclose()
        self._pools.clear()

    async def _answer(self, target: Target, request: httpcore2.Request) -> httpcore2.Response:
        """The head of the answer. A connection that was idle may turn out to have been closed by the receiver in this
        very moment: then, and only then, it is sent once more."""
        dialled = False

        async def trace(name: str, _info: Mapping[str, Any]) -> None:
            nonlocal dialled
            dialled = dialled or name.startswith("connection.connect_")

        request.extensions["trace"] = trace
        pool = await self._pool(target)
        try:
            return await pool.handle_async_request(request)
        except (httpcore2.RemoteProtocolError, httpcore2.ReadError, httpcore2.WriteError):
            if dialled:
                raise
        return await pool.handle_async_request(request)

    async def _pool(self, target: Target) -> httpcore2.AsyncConnectionPool:
        if target.kind == "http+unix":  # connecting costs nothing there, so nothing is kept
            return httpcore2.AsyncConnectionPool(
                uds=target.socket_path, max_keepalive_connections=0, network_backend=self._unix
            )
        async with self._building:
            if (pool := self._pools.get(target.kind)) is None:
                pool = self._pools[target.kind] = await self._build(target.kind)
        return pool

    async def _build(self, kind: str) -> httpcore2.AsyncConnectionPool:
        tls = await asyncio.to_thread(_tls, self._settings.ca_file) if kind == "https" else None
        return httpcore2.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=None,  # a receiver that is slow must not keep another's from being made
            max_keepalive_connections=IDLE_CONNECTIONS_MAX,
            keepalive_expiry=IDLE_S,
            network_backend=self._public if kind == "https" else self._plain,
        )


def _request(
    target: Target, attempt: int, signature: Mapping[str, str], body: bytes, connect_s: float
) -> httpcore2.Request:
    headers = {
        "host": target.authority,
        "user-agent": f"unhurried/{__version__}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **signature,
        "unhurried-attempt": str(attempt),
    }
    return httpcore2.Request(
        method=b"POST",
        url=httpcore2.URL(
            scheme=b"https" if target.kind == "https" else b"http",
            host=(target.host or "localhost").encode(),
            port=target.port or 80,
            target=target.path.encode(),
        ),
        headers=[(name.encode(), value.encode()) for name, value in headers.items()],
        content=body,
        extensions={"timeout": {"connect": connect_s}},
    )


async def _finish(response: httpcore2.Response) -> None:
    """Read what is left of the answer, a little of it and not for long, so that its connection is free; else close."""
    try:
        async with asyncio.timeout(DRAIN_S), contextlib.aclosing(response.aiter_stream()) as parts:
            async for _ in parts:
                pass
    except FAILURES:  # TimeoutError is among them
        pass
    finally:
        await response.aclose()


def _header(response: httpcore2.Response, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), None)


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    """Reads every certificate of the system, which takes a tenth of a second: not for the event loop."""
    context = httpcore2.default_ssl_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise CannotSend(f"UNHURRIED_DELIVERY__CA_FILE cannot be used: {error.strerror or error}") from None
    return context
