"""Which Unix sockets a webhook may go to: those in folders of the operator's choice, never the daemon's own."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from unhurried.delivery.failures import CannotSend


def checked(path: str, folders: Sequence[Path], own: Path) -> str:
    """The real path of the socket, to be connected to at once.

    Raises ``CannotSend`` where it may not be, ``OSError`` where there is nothing (its application is down). Links are
    followed first, so that none leads out of the folders to a socket that obeys whoever reaches it, such as Docker's.
    """
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(os.path.realpath(folder)) for folder in folders):
        where = ", ".join(map(str, folders)) or "no folder"
        raise CannotSend(f"{path} lies outside of {where}; UNHURRIED_DELIVERY__ALLOWED_SOCKET_DIRS can admit it")
    found = real.stat()
    if not stat.S_ISSOCK(found.st_mode):
        raise CannotSend(f"{path} is no socket")
    if own.exists() and os.path.samestat(found, own.stat()):
        raise CannotSend(f"{path} is the daemon's own socket")
    return str(real)
