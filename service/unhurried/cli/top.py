"""``unhurried top``: the screen of ``status``, drawn again every few seconds, with what happens in a second."""

import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from unhurried.cli.connection import WITHOUT_IT, SocketOption, socket_path
from unhurried.cli.exits import OK, UNREACHABLE, CliError
from unhurried.cli.output import console
from unhurried.cli.overview import Line, Room, overview

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

RATES: Final = ("accepted", "finished", "delivered")
ANSWER_S: Final = 10.0
STYLES: Final = {"": "", "head": "bold", "alert": "bold red", "dim": "dim"}
END: Final = b"\x04"
QUIT: Final = frozenset({b"q", b"Q", END})
ROWS_SPENT: Final = 14
"""Lines that are no rows of a table, roughly: the rest of the screen is shared by three tables."""


def top(
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    frames: Annotated[int | None, typer.Option(min=1, help="End after so many; on a pipe, 1 unless given.")] = None,
    socket: SocketOption = None,
) -> int:
    """Watch the daemon at work.

    The screen of `status`, and how many requests are accepted, finished and delivered in a second. It goes on while the
    daemon restarts. `q` or Ctrl-C ends it. On a pipe it prints one screen and ends.

    \b
    unhurried top --interval 1
    """
    path = socket_path(socket)
    screen = console()
    if screen.is_terminal:
        _watch(screen, path, interval, frames)
    else:
        _print(path, interval, frames or 1)
    return OK


@dataclass(frozen=True)
class Look:
    """One answer of the daemon; ``at`` on a clock that never jumps."""

    at: float
    told: Mapping[str, Any]


def rates(before: Look | None, after: Look) -> Mapping[str, float]:
    """What happened in a second, by ``RATES``, between two looks at the same process; else nothing."""
    if before is None or before.told["daemon"]["epoch"] != after.told["daemon"]["epoch"] or after.at <= before.at:
        return {}
    old, new = before.told["daemon"]["counts"], after.told["daemon"]["counts"]
    return {name: (new[name] - old[name]) / (after.at - before.at) for name in RATES}


def frame(before: Look | None, after: Look, room: Room) -> Iterator[Line]:
    """One screen, the most important first."""
    per_second = rates(before, after)
    told = "   ".join(f"{name} {per_second[name]:,.1f}/s" if name in per_second else f"{name} –/s" for name in RATES)
    yield Line(f"{datetime.now(UTC):%H:%M:%S} UTC   {told}", "head")
    yield from overview(after.told, datetime.now(UTC), room)


def _print(path: Path, interval_s: float, frames: int) -> None:
    before: Look | None = None
    for number in range(frames):
        if number:
            time.sleep(interval_s)
            print()
        after = _look(path)
        if isinstance(after, str):
            raise CliError(f"{after}. {WITHOUT_IT}", UNREACHABLE)
        for line in frame(before, after, Room()):
            print(line.text)
        before = after


def _watch(screen: "Console", path: Path, interval_s: float, frames: int | None) -> None:
    from rich.live import Live

    before: Look | None = None
    with _keys() as pressed, Live(console=screen, screen=True, auto_refresh=False, transient=True) as live:
        while True:
            after = _look(path)
            if isinstance(after, str):
                live.update(_drawn(screen, [Line(after, "alert"), Line("waiting for it; q ends this")]), refresh=True)
            else:
                room = Room(max(1, (screen.size.height - ROWS_SPENT) // 3), screen.size.width)
                live.update(_drawn(screen, list(frame(before, after, room))), refresh=True)
                before = after
            if frames is not None and (frames := frames - 1) == 0:
                return
            if pressed(interval_s) in QUIT:
                return


def _drawn(screen: "Console", lines: list[Line]) -> "Text":
    """As much of it as there is room for: what is cut off is at the right and at the bottom, where it matters least."""
    from rich.text import Text

    height = screen.size.height
    if len(lines) > height:
        lines = [*lines[: height - 1], Line("… a taller terminal shows more", "dim")]
    text = Text(no_wrap=True, overflow="ellipsis")
    for place, line in enumerate(lines):
        text.append("\n" if place else "").append(line.text, style=STYLES[line.style])
    return text


def _look(path: Path) -> Look | str:
    """What the daemon tells; or, in words, why it does not."""
    import msgspec

    from unhurried.cli.asking import get

    try:
        status, body = get(path, "/queue/status", ANSWER_S)
        told = msgspec.json.decode(body, type=dict[str, Any])
    except PermissionError:
        return f"no permission to connect to {path}: you are not in the group of the socket or its folder"
    except OSError as error:
        return f"no daemon answers at {path}: {error.strerror or error}"
    except ValueError as error:
        return f"the answer at {path} cannot be read: {error}"
    return Look(time.monotonic(), told) if status == 200 else str(told.get("detail") or f"status {status}")


@contextmanager
def _keys() -> Iterator[Callable[[float], bytes]]:
    """While it lasts, keys come one by one: given seconds, what was pressed in them. Empty: nothing was."""
    import termios
    import tty

    if not sys.stdin.isatty():
        yield _nobody_presses
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield partial(_pressed, terminal)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _nobody_presses(seconds: float) -> bytes:
    time.sleep(seconds)
    return b""


def _pressed(terminal: int, seconds: float) -> bytes:
    if not select.select([terminal], [], [], seconds)[0]:
        return b""
    return os.read(terminal, 16)[:1] or END  # nothing although there is something: the terminal has gone
