"""Where the database may lie, and the lock that keeps a second daemon out."""

import fcntl
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from unhurried.store.errors import StoreUnusable

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "ceph", "glusterfs", "lustre", "afs", "sshfs",
     "fuse.sshfs"}
)  # fmt: skip
"""SQLite's locks and its shared memory do not work reliably there (https://sqlite.org/wal.html, section 1)."""


LOOKS: Final = 3
LOOK_S: Final = 0.02
"""``holder`` has the lock for microseconds; a daemon that starts just then must not take it for another daemon."""


EPOCH_MAX: Final = 1 << 40


class WrongPlace(StoreUnusable):
    exit_code = 73


class AlreadyHeld(StoreUnusable):
    exit_code = 75


class InstanceLock:
    """A lock on ``<database>.lock``, held for life. Never the database itself: closing a second descriptor of that
    file would drop SQLite's own locks."""

    def __init__(self, database: Path) -> None:
        self.path = _lock(database)
        self.epoch = 0
        """The newest boot of this database that is remembered here, 0 for none. A file that knows less is an older one,
        put back in its place."""
        self._file: int | None = None

    def acquire(self) -> None:
        """Raises ``AlreadyHeld`` with the holder's pid, or ``WrongPlace``."""
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise WrongPlace(f"cannot write {self.path}: {error.strerror}") from None
        if not _taken(file):
            held_by = _pid(file)
            os.close(file)
            raise AlreadyHeld(
                f"another daemon (pid {held_by}) holds {self.path}; stop it first, or give this one its own"
                " UNHURRIED_DATABASE"
            )
        self._file = file
        self.remember(_epoch(file))

    def remember(self, epoch: int) -> None:
        """Write down who holds it, and the newest boot."""
        assert self._file is not None
        self.epoch = max(self.epoch, epoch)
        text = f"{os.getpid()}\n{self.epoch}\n".encode()
        with suppress(OSError):  # the disk is full: the lock is held all the same, it does not say by whom
            os.pwrite(self._file, text, 0)  # over what is there: cut off first, a kill would leave nothing remembered
            os.ftruncate(self._file, len(text))
            os.fsync(self._file)

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _taken(lock: int) -> bool:
    for attempt in range(LOOKS):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt + 1 < LOOKS:
                time.sleep(LOOK_S)
        else:
            return True
    return False


@dataclass(frozen=True)
class Holder:
    """Of a database. ``pid`` is what it wrote into the lock; it may be of another container."""

    pid: str


def holder(database: Path) -> Holder | None:
    """The daemon that holds a database, without waiting and without keeping others out for longer than the look. None:
    nobody does. Raises ``PermissionError`` when that may not be seen."""
    try:
        file = os.open(_lock(database), os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return Holder(_pid(file))
    finally:
        os.close(file)
    return None


def _lock(database: Path) -> Path:
    real = Path(os.path.realpath(database))  # by whatever link it is called, it is one database
    return real.with_name(real.name + ".lock")


def _pid(lock: int) -> str:
    return os.pread(lock, 32, 0).decode(errors="replace").partition("\n")[0].strip() or "unknown"


def _epoch(lock: int) -> int:
    _, _, epoch = os.pread(lock, 64, 0).decode(errors="replace").partition("\n")
    return min(int(epoch), EPOCH_MAX) if epoch.strip().isdecimal() and epoch.isascii() else 0


def prepare_folder(database: Path) -> None:
    """Make the folder (mode 0700) if need be. Raises ``WrongPlace`` where a database cannot live."""
    folder = database.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise WrongPlace(f"cannot create the folder {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise WrongPlace(
            f"the folder {folder} is not writable for uid {os.getuid()}; SQLite needs to write beside the file"
        )
    if database.is_dir():
        raise WrongPlace(f"{database} is a folder; UNHURRIED_DATABASE names the file")
    kind = file_system(folder)
    if kind in NETWORK_FILE_SYSTEMS:
        raise WrongPlace(f"{folder} lies on {kind}, a network file system: SQLite is not safe there; use a local disk")


def file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that holds ``folder``, as the kernel names it; empty where it cannot be told."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""  # no /proc: not Linux, nothing to go by
    target = str(folder.resolve())
    best, kind = "", ""
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split()[4].replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind
