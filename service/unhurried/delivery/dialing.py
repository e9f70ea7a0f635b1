"""Where connections are made: the address that was checked is the address that is dialled.

A check at registration, or of a name, proves nothing: by the time of the connection the name may stand for another
address (DNS rebinding). So each name is resolved once, here, and the connection goes to a literal address that passed.
The TLS name and ``Host`` come from the URL, above this.
"""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import httpcore2

from unhurried.delivery import sockets
from unhurried.delivery.bounded import Bounded
from unhurried.delivery.failures import CannotSend
from unhurried.delivery.names import Names
from unhurried.domain.addresses import Network, is_allowed, refusal_of_address

ADDRESSES_MAX: Final = 4
"""So many of a name's addresses are tried; they share the time for the connection."""
_HOW: Final = "(see UNHURRIED_DELIVERY__ALLOWED_NETWORKS)"


class Tcp(httpcore2.AnyIOBackend):
    """Connects to addresses that may be dialled; ``public`` says whether those outside of ``allowed`` are among them.

    Raises ``CannotSend`` where a name has no such address.
    """

    def __init__(self, names: Names, allowed: Sequence[Network], *, public: bool) -> None:
        self._names = names
        self._allowed = allowed
        self._public = public

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore2's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        end = None if timeout is None else loop.time() + timeout
        try:
            async with asyncio.timeout_at(end):
                addresses = self._checked(host, await self._names.addresses(host))
        except TimeoutError:
            raise httpcore2.ConnectTimeout(f"looking up {host} takes too long") from None
        failure: Exception = httpcore2.ConnectError(f"{host} has no address")
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            share = None if end is None else (end - loop.time()) / left
            try:
                return Bounded(await super().connect_tcp(address, port, share, local_address, socket_options))
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    def _checked(self, host: str, addresses: Sequence[str]) -> list[str]:
        """Those that may be dialled. One that may not is passed over: nothing is ever sent to it."""
        refusals = {address: self._refusal(address) for address in addresses}
        admitted = [address for address, refusal in refusals.items() if refusal is None]
        if refusals and not admitted:
            why = "; ".join(refusal for refusal in list(refusals.values())[:ADDRESSES_MAX] if refusal)
            raise CannotSend(f"{host} cannot be sent to: {why} {_HOW}")
        return admitted[:ADDRESSES_MAX]

    def _refusal(self, address: str) -> str | None:
        if (refusal := refusal_of_address(address, self._allowed)) is not None:
            return refusal
        if not self._public and not is_allowed(address, self._allowed):
            return f"{address} lies in no allowed network, and plain http goes only there"
        return None


class Unix(httpcore2.AnyIOBackend):
    """Connects to sockets in ``folders``, but for ``own``."""

    def __init__(self, folders: Sequence[Path], own: Path) -> None:
        self._folders = folders
        self._own = own

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        real = sockets.checked(path, self._folders, self._own)
        return Bounded(await super().connect_unix_socket(real, timeout, socket_options))
