"""Runs a simulator: binds, says that it is ready, and stops promptly when told."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from unhurried.simulator import VERSION
from unhurried.simulator.app import App
from unhurried.simulator.settings import Settings
from unhurried.simulator.wire import Connection
from unhurried.simulator.world import World

log: structlog.stdlib.BoundLogger = structlog.get_logger()

READY: Final = "simulator.ready"
STOPPED: Final = "simulator.stopped"
SOCKET_MODE: Final = 0o660
BACKLOG: Final = 1024

LogFormat = Literal["json", "console"]


class AddressInUse(Exception):
    """Somebody answers there already."""


def run(
    settings: Settings,
    *,
    host: str,
    port: int,
    socket_path: Path | None,
    faults: Sequence[tuple[str, Mapping[str, Any]]],
    log_format: LogFormat,
) -> None:
    """Serve until SIGTERM or SIGINT, on ``socket_path`` if one is given, else on TCP; port 0 picks a free one.

    Raises ``AddressInUse``, and ``ValueError`` for faults that do not exist.
    """
    _configure_log(log_format)
    world = World(settings)
    for name, given in faults:
        world.faults.put(name, given)
    listener = _unix_listener(socket_path) if socket_path else _tcp_listener(host, port)
    url = f"http+unix://{socket_path}" if socket_path else _url(host, listener)
    try:
        asyncio.run(_serve(App(world), listener, url, settings))
    finally:
        if socket_path:
            socket_path.unlink(missing_ok=True)


async def _serve(app: App, listener: socket.socket, url: str, settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Hundreds of thousands of items live long and contain no cycles: full collections would be stalls for nothing.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    connections: set[Connection] = set()

    def connect() -> Connection:
        return Connection(app.handle, connections)

    serve = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
    server = await serve(connect, sock=listener, backlog=BACKLOG)
    log.info(
        READY,
        url=url,
        simulator=True,
        version=VERSION,
        seed=settings.seed,
        speed=settings.speed,
        says="a simulator, not Anthropic's API",
    )
    await stop.wait()
    server.close()
    for connection in list(connections):
        connection.shut()
    log.info(STOPPED)


def _tcp_listener(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise AddressInUse(f"cannot listen on {host}:{port}: {error}") from error
    return listener


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _unix_listener(path: Path) -> socket.socket:
    """Bind ``path`` with mode 0660, in place of a socket that nobody serves any more. Raises ``AddressInUse``."""
    if path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise AddressInUse(f"{path} exists and is no socket")
        if _answers(path):
            raise AddressInUse(f"somebody answers on {path} already")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o777 & ~SOCKET_MODE)  # from its first instant nobody else may connect
    try:
        listener.bind(str(path))
    except OSError as error:
        raise AddressInUse(f"cannot listen on {path}: {error}") from error
    finally:
        os.umask(umask)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError as error:
            raise AddressInUse(f"cannot tell whether {path} is served: {error}") from error
        return True


def _configure_log(log_format: LogFormat) -> None:
    """One line per event on standard output: JSON for a pipe, words for a terminal. Bodies are never logged."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if log_format == "json" else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
