"""Processes of our own, started for the time of a demo: watched while it runs, stopped whatever happens."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from unhurried.cli.exits import BUG, CliError

STOP_S: Final = 15.0
TAIL_LINES: Final = 12
TAIL_BYTES: Final = 16_384


class Children:
    """Some ``unhurried`` commands, each with a log file in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self, name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        """Run ``unhurried`` with these arguments, in a session of its own: Ctrl-C is ours to handle."""
        with self.log(name).open("ab") as log, _signals_wait():
            process = subprocess.Popen(  # noqa: S603  # ourselves, with arguments of our own
                [sys.executable, "-m", "unhurried", *arguments],
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            self._running.append((name, process))

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def check(self) -> None:
        """Raises ``CliError`` with the end of its log when one of them has died."""
        for name, process in self._running:
            code = process.poll()
            if code is not None:
                says = f"{name} ended with exit code {code}; its log, {self.log(name)}, ends:\n{self._tail(name)}"
                raise CliError(says, BUG)

    def stop(self) -> None:
        """SIGTERM, last started first; SIGKILL for what does not end in time, or when we are told to hurry."""
        processes = [process for _, process in reversed(self._running)]
        try:
            for process in processes:
                if process.poll() is None:
                    process.terminate()
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_S)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        self._running.clear()

    def _tail(self, name: str) -> str:
        with self.log(name).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (it is empty)"


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """What tells us to end is heard afterwards: in the middle of starting a process it would leave one nobody knows."""
    came: list[int] = []
    numbers: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda heard, _: came.append(heard)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in came:
        signal.raise_signal(number)
