"""Host names to addresses, in threads of their own.

A resolver can take half a minute over a name whose servers are silent, and nothing can interrupt it. In asyncio's own
pool a few such names would hold up everything else that uses threads, and the end of the process; these threads are
daemons, and one name has one of them at most, however many deliveries wait for it.
"""

import asyncio
import contextlib
import socket
import threading
from ipaddress import ip_address
from typing import Final

LOOKUPS_MAX: Final = 32


class Names:
    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Future[list[str] | OSError]] = {}

    async def addresses(self, host: str) -> list[str]:
        """The addresses of ``host``, in the system's order, each once, with a zone id where it has one.

        Raises ``OSError`` where there are none, while ``LOOKUPS_MAX`` other names are looked up, or without a thread.
        """
        with contextlib.suppress(ValueError):
            return [str(ip_address(host))]
        if (lookup := self._under_way.get(host)) is None:
            if len(self._under_way) >= LOOKUPS_MAX:
                raise OSError(f"{LOOKUPS_MAX} other host names are being looked up")
            lookup = self._under_way[host] = self._start(host)
        found = await asyncio.shield(lookup)
        if isinstance(found, OSError):
            raise OSError(found.errno, found.strerror) from found
        return found

    def _start(self, host: str) -> asyncio.Future[list[str] | OSError]:
        loop = asyncio.get_running_loop()
        lookup: asyncio.Future[list[str] | OSError] = loop.create_future()

        def done(found: list[str] | OSError) -> None:
            del self._under_way[host]
            lookup.set_result(found)

        def look_up() -> None:
            found = _resolved(host)
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(done, found)

        try:
            threading.Thread(target=look_up, name=f"look up {host}", daemon=True).start()
        except RuntimeError as error:  # no more threads to be had
            raise OSError(f"{host} cannot be looked up: {error}") from error
        return lookup


def _resolved(host: str) -> list[str] | OSError:
    try:
        rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return error
    except UnicodeError as error:  # Python's own check of the labels
        return OSError(0, f"no host name: {error}")
    return list(dict.fromkeys(_address(*sockaddr) for *_, sockaddr in rows))


def _address(address: str | int, _port: int | bytes = 0, _flow: int = 0, scope: int = 0) -> str:
    return f"{address}%{scope}" if scope else str(address)
