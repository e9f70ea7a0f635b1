"""Cuts a byte stream into lines. One that is too long is passed over without being kept."""

from typing import Final


class TooLong:
    """Stands for a line that was longer than allowed."""


TOO_LONG: Final = TooLong()
Line = bytes | TooLong


class Lines:
    """Feed it the stream as it comes, and ``end`` it: the lines are the same however the stream was cut.

    A line is what ends with a newline, which is not part of it, and the rest at the end unless that is empty.
    """

    def __init__(self, line_bytes_max: int) -> None:
        self._max = line_bytes_max
        self._parts: list[bytes] = []
        self._held = 0
        self._skipping = False

    @property
    def held(self) -> int:
        """Bytes of the unfinished line that are kept."""
        return self._held

    def feed(self, data: bytes) -> list[Line]:
        """The lines that ``data`` completes."""
        first, *others = data.split(b"\n")
        self._hold(first)
        if not others:
            return []
        lines: list[Line] = [self._take()]
        rest = others.pop()
        lines += [line if len(line) <= self._max else TOO_LONG for line in others]
        self._hold(rest)
        return lines

    def end(self) -> list[Line]:
        """The last line, if the stream did not end with a newline."""
        return [self._take()] if self._held or self._skipping else []

    def _hold(self, part: bytes) -> None:
        if self._skipping or not part:
            return
        self._parts.append(part)
        self._held += len(part)
        if self._held > self._max:
            self._parts.clear()
            self._held = 0
            self._skipping = True

    def _take(self) -> Line:
        line: Line = TOO_LONG if self._skipping else b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        self._skipping = False
        return line
