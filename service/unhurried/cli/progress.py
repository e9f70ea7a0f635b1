"""Progress on stderr: bars on a terminal, now and then a line elsewhere."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from unhurried.cli.output import console, say

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

LINE_EVERY_S: Final = 2.0


class Stages:
    """Shows how far each stage is. ``wait_s`` between two plain lines."""

    def __init__(self, *, line_every_s: float = LINE_EVERY_S) -> None:
        self._line_every_s = line_every_s
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, tuple[int, int]] = {}
        self._said_at = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bars = Progress(*columns, console=console(stderr=True))
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()

    def at(self, stage: str, done: int, total: int) -> None:
        """Stage ``stage`` has ``done`` of ``total``."""
        self.show({stage: (done, total)})

    def show(self, stages: Mapping[str, tuple[int, int]]) -> None:
        """Several at once: stage → (done, total)."""
        if all(self._told.get(stage) == counts for stage, counts in stages.items()):
            return
        self._told.update(stages)
        if self._bars is not None:
            for stage, (done, total) in stages.items():
                if stage not in self._tasks:
                    self._tasks[stage] = self._bars.add_task(stage, total=total)
                self._bars.update(self._tasks[stage], completed=done, total=total)
        elif all(done >= total for done, total in self._told.values()) or self._is_time():
            self._said_at = time.monotonic()
            say(", ".join(f"{stage} {done:,} of {total:,}" for stage, (done, total) in self._told.items()))

    def _is_time(self) -> bool:
        return time.monotonic() - self._said_at >= self._line_every_s

    def say(self, text: str) -> None:
        """A message, above the bars if there are any."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False)
        else:
            say(text)
