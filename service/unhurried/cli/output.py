"""What commands print: JSON for programs, tables and short lines for people. ``rich`` is for progress bars."""

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from rich.console import Console


def json_out(value: Any) -> None:
    """One object: indented on a terminal, one line otherwise."""
    text = msgspec.json.encode(value)
    if sys.stdout.isatty():
        text = msgspec.json.format(text, indent=2)
    print(text.decode())


def json_line(value: Any) -> None:
    print(msgspec.json.encode(value).decode())


def say(text: str) -> None:
    """A message for people; never data."""
    print(text, file=sys.stderr, flush=True)


def console(*, stderr: bool = False) -> "Console":
    """A rich console: colours only on a terminal and without NO_COLOR."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[str] = ()) -> None:
    """Plain columns, never cut or folded to the width of a terminal: ids are there to be copied. ``right``: numbers."""
    bold = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for place, line in enumerate(table_lines(columns, rows, right=right)):
        print(f"\x1b[1m{line}\x1b[0m" if bold and place == 0 else line)


def table_lines(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[str] = ()) -> list[str]:
    """The same as lines, the first of them the heading."""
    numbers = set(right)
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if name in numbers else text.ljust(width)
            for name, text, width in zip(columns, row, widths, strict=True)
        ).rstrip()
        for row in (list(columns), *cells)
    ]


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """Name and value, one pair a line; a value that is missing leaves its line out."""
    given = [(name, _cell(value)) for name, value in pairs if value is not None and value != ""]
    width = max((len(name) for name, _ in given), default=0)
    for name, value in given:
        print(f"{name:<{width}}  {value}")


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 group``, ``2 groups``, ``1,000 batches``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def age(moment: str | None, now: datetime | None = None) -> str:
    """``4 m`` since ``moment``, or ``in 4 m``; nothing for none."""
    if moment is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(moment)).total_seconds()
    return duration(seconds) if seconds >= 0 else f"in {duration(-seconds)}"


def duration(seconds: float) -> str:
    """Two significant parts at most: ``0.4 s``, ``12 s``, ``4 m 10 s``, ``3 h 5 m``, ``2 d 4 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, below, small in (("d", 86_400, "h", 3_600), ("h", 3_600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit} {rest} {below}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def size(number: float) -> str:
    """``512 B``, ``2.0 kB``, ``145 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError("unreachable")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
