"""How this process is: when each loop last finished a step, how late the event loop runs, how much memory it has.

In memory only, for ``/healthz`` and ``/queue/status``; numbers that must survive a restart are the store's.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from unhurried.clock import Ms, seconds_between
from unhurried.counting import Histogram
from unhurried.loop import Step

TICK_S: Final = 0.01
IDLE_TICK_S: Final = 0.1
BUSY: Final = 0.05
"""Share of a core from which on the ticker runs at its full pace; an idle daemon is not kept awake by its own meter."""
BOUNDS_MS: Final = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 35.0, 50.0, 75.0, 100.0,
                    150.0, 250.0, 500.0, 1_000.0, 2_500.0, 10_000.0)  # fmt: skip
"""Upper bounds of the lateness histogram; what is beyond the last falls behind it."""
HANGS_S: Final = 600.0
"""A loop that should step every minute and has not for so long will not any more."""
WRITER_PAUSE_S: Final = 10.0
WRITER_HANGS_S: Final = 120.0
"""Nothing could be written for so long: far more than a lock held by another program or a slow disk explains."""
PROCESS_STATUS: Final = Path("/proc/self/status")


class LoopWatch:
    """When each loop last finished a step, and how many it has finished."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self.finished_at: dict[str, Ms] = {}
        """Of each loop the last time; when it began, before its first step has ended."""
        self.steps = Counter[str]()
        self._prompt: dict[str, float] = {}
        """When a prompt loop last finished, on a clock that nobody sets and that stands still in a suspended host."""
        self._hangs_s: dict[str, float] = {}

    def watch(self, name: str, now: Ms, *, prompt: bool = False, hangs_s: float = HANGS_S) -> Callable[[Ms], None]:
        """Register a loop, counted as just begun; returns what ``repeat(finished=…)`` takes.

        ``prompt``: its steps never wait for the network, and its pauses are a minute at most, so it can be judged: it
        hangs when it has not finished a step for ``hangs_s``.
        """

        def finished(moment: Ms) -> None:
            self.finished_at[name] = moment
            self.steps[name] += 1
            if prompt:
                self._prompt[name] = self._monotonic()

        finished(now)
        self.steps[name] = 0
        self._hangs_s[name] = hangs_s
        return finished

    def hanging(self) -> Sequence[str]:
        """The prompt loops that have not finished a step for too long, by name."""
        now = self._monotonic()
        return sorted(name for name, at in self._prompt.items() if now - at > self._hangs_s[name])

    def ages_s(self, now: Ms) -> Mapping[str, float]:
        """Seconds since each loop last finished a step, by name; never negative."""
        return {name: max(0.0, seconds_between(moment, now)) for name, moment in self.finished_at.items()}


def touching(touch: Callable[[], Awaitable[None]]) -> Step:
    """A loop that writes nothing now and then, through the writer as everyone: it hangs when that hangs."""

    async def step(_now: Ms) -> float:
        await touch()
        return WRITER_PAUSE_S

    return step


class StallMeter:
    """By how much a ticker of the event loop is late, as a histogram of fixed size."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        self._tick_s = tick_s
        self.reset()

    def reset(self) -> None:
        """Forget what was measured, for instance all that starting up caused."""
        self.late_ms = Histogram(BOUNDS_MS)
        self._ticks = 0
        self.max_ms = 0.0

    def record(self, late_ms: float) -> None:
        late_ms = max(0.0, late_ms)
        self.late_ms.add(late_ms)
        self._ticks += 1
        self.max_ms = max(self.max_ms, late_ms)

    @property
    def p99_ms(self) -> float:
        """The bound under which 99 of 100 ticks lie, at most one step of ``BOUNDS_MS`` too high; 0 before the first."""
        seen = 0
        for bound, count in zip((*BOUNDS_MS, self.max_ms), self.late_ms.counts, strict=True):
            seen += count
            if seen >= 0.99 * self._ticks:
                return min(bound, self.max_ms)
        return self.max_ms

    async def run(self, stop: asyncio.Event) -> None:
        """Tick until ``stop``: every ``tick_s`` while the process works, seldom while it idles."""
        loop = asyncio.get_running_loop()
        seen_at, used_s = loop.time(), time.process_time()
        due = seen_at + self._tick_s
        handle: asyncio.TimerHandle

        def tick() -> None:
            nonlocal seen_at, used_s, due, handle
            now, cpu_s = loop.time(), time.process_time()
            self.record((now - due) * 1000)
            busy = cpu_s - used_s > BUSY * (now - seen_at)
            seen_at, used_s = now, cpu_s
            due = now + (self._tick_s if busy else IDLE_TICK_S)
            handle = loop.call_at(due, tick)

        handle = loop.call_at(due, tick)
        try:
            await stop.wait()
        finally:
            handle.cancel()


class MemoryMeter:
    """Resident memory now, when the daemon was ready, and at its peak. In bytes, from the kernel."""

    def __init__(self, source: Path = PROCESS_STATUS) -> None:
        self._source = source
        self._ready_bytes = 0

    def mark_ready(self) -> None:
        self._ready_bytes = self._read()["VmRSS"]

    def figures(self) -> Mapping[str, int]:
        """``rss_bytes``, ``rss_ready_bytes`` (0 until ready), ``rss_peak_bytes``."""
        read = self._read()
        return {"rss_bytes": read["VmRSS"], "rss_ready_bytes": self._ready_bytes, "rss_peak_bytes": read["VmHWM"]}

    def _read(self) -> dict[str, int]:
        found = {"VmRSS": 0, "VmHWM": 0}
        for line in self._source.read_text().splitlines():
            name, _, value = line.partition(":")
            if name in found:
                found[name] = int(value.split()[0]) * 1024
        return found


class Health:
    """The three together, as the ingest room asks for them."""

    def __init__(self) -> None:
        self.watch = LoopWatch()
        self.stalls = StallMeter()
        self.rss = MemoryMeter()

    def mark_ready(self) -> None:
        """The daemon is ready: memory is compared with now, and the stalls of starting up do not count."""
        self.rss.mark_ready()
        self.stalls.reset()

    def loops(self, now: Ms) -> Mapping[str, float]:
        return {name: round(age_s, 3) for name, age_s in self.watch.ages_s(now).items()}

    def hanging(self) -> Sequence[str]:
        return self.watch.hanging()

    def memory(self) -> Mapping[str, int]:
        return self.rss.figures()

    def stall(self) -> Mapping[str, float]:
        return {"p99_ms": round(self.stalls.p99_ms, 3), "max_ms": round(self.stalls.max_ms, 3)}
