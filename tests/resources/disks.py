"""A small disk of its own for a test, and the means to fill it."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Disk:
    folder: Path

    @property
    def free(self) -> int:
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Somebody else takes all that is free, but so much."""
        size = self._ballast.stat().st_size if self._ballast.exists() else 0
        with self._ballast.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, size + self.free - leave))

    def make_room(self) -> None:
        self._ballast.unlink()

    @property
    def _ballast(self) -> Path:
        return self.folder / "somebody-elses"


@contextmanager
def small_disk(folder: Path, bytes_total: int) -> Iterator[Disk]:
    """A file system in memory at ``folder``. Skips the test where this user may not mount one."""
    folder.mkdir()
    options = f"size={bytes_total},mode=0700"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.decode().strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
