"""Binding the Unix socket ourselves: uvicorn would leave it open to everyone (0666)."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

PATH_BYTES_MAX: Final = 107
"""What fits into ``sockaddr_un`` on Linux, beside the final NUL."""
DIRECTORY_MODE: Final = 0o750


class SocketUnusable(Exception):
    """The socket cannot be bound; the text says why and what to do."""

    exit_code = 73


class SocketInUse(SocketUnusable):
    """Another process listens there."""

    exit_code = 75


def bind(path: Path, mode: int) -> socket.socket:
    """A bound Unix socket with exactly these permission bits from its first moment; it does not listen yet.

    A missing directory is created (0750). A socket that nobody listens at is replaced: the caller holds the lock
    that keeps a second daemon out. Raises ``SocketInUse`` or ``SocketUnusable``.
    """
    size = len(os.fsencode(path))
    if size > PATH_BYTES_MAX:
        raise SocketUnusable(
            f"the path of the socket has {size} bytes, Linux allows {PATH_BYTES_MAX};"
            f" set UNHURRIED_SOCKET to a shorter one than {path}"
        )
    try:
        with _umask(0o777 & ~DIRECTORY_MODE):
            path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _umask(0o777 & ~mode):
                listener.bind(os.fspath(path))
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SocketInUse(f"something else has just taken {path}") from error
        raise SocketUnusable(f"the socket {path} cannot be made: {error.strerror}") from error
    return listener


def _remove_stale(path: Path) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise SocketUnusable(f"{path} is there and is no socket; move it away or set UNHURRIED_SOCKET")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                path.unlink()
            return
        except BlockingIOError:
            pass  # its backlog is full: it is very much alive
        except FileNotFoundError:
            return
    raise SocketInUse(f"another process listens at {path}; is the daemon running already?")


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)
