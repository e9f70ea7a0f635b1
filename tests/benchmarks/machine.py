"""What this machine is, and how much of it others used while we measured."""

import os
import platform
import sqlite3
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def facts(folder: Path) -> dict[str, str]:
    """The machine and the settings that figures depend on. ``folder`` lies on the disk that is measured."""
    appended, worst = _fdatasync_ms(folder)
    return {
        "cores": str(os.cpu_count()),
        "CPU": _cpu(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "file system": _file_system(folder),
        "append 4 KB and fdatasync": f"{appended:.2f} ms (p99 {worst:.1f})",
        "Python": platform.python_version(),
        "SQLite": f"{sqlite3.sqlite_version}, WAL, synchronous=FULL, page_size=8192",
    }


def cpu_s(pid: int) -> float:
    """CPU time that a process has used so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


@dataclass
class Usage:
    """What happened to the machine inside a ``with watched(…)``."""

    seconds: float = 0.0
    foreign: float = 0.0
    """Share of the whole machine that went to processes that are not ours."""


@contextmanager
def watched(*pids: int) -> Iterator[Usage]:
    """Ours are this process, children of it that ended meanwhile, and ``pids``."""
    usage = Usage()
    start, busy, ours = time.monotonic(), _busy_s(), _ours_s(pids)
    yield usage
    usage.seconds = time.monotonic() - start
    others_s = (_busy_s() - busy) - (_ours_s(pids) - ours)
    usage.foreign = max(0.0, others_s / usage.seconds / (os.cpu_count() or 1))


def _busy_s() -> float:
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / TICKS_PER_S


def _ours_s(pids: tuple[int, ...]) -> float:
    mine = os.times()
    return mine.user + mine.system + mine.children_user + mine.children_system + sum(map(cpu_s, pids))


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    best = ("/", "?")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted_at, kind, *_ = line.split()
        if folder.resolve().is_relative_to(mounted_at) and len(mounted_at) >= len(best[0]):
            best = (mounted_at, kind)
    return best[1]


def _fdatasync_ms(folder: Path) -> tuple[float, float]:
    """Median and 99th percentile of appending 4 KB and waiting for the disk."""
    times_ms = []
    path = folder / "fdatasync"
    with path.open("wb", buffering=0) as file:
        for _ in range(200):
            start = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            times_ms.append((time.perf_counter() - start) * 1000)
    path.unlink()
    return statistics.median(times_ms), statistics.quantiles(times_ms, n=100)[98]
