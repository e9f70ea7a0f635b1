"""Cut a stream of bytes into lines, in time and memory proportional to what arrives."""

from typing import Final

LINE_BYTES_MAX: Final = 64_000_000


class LineTooLong(Exception):
    """A line beyond ``LINE_BYTES_MAX``: no result is that long, so this is not a results file."""


class LineCutter:
    """Feed it pieces as they come. Blank lines are dropped, the newline is not part of a line."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # pieces of the line that is not complete; joined once, when it is
        self._rest_bytes = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that ``piece`` completes. Raises ``LineTooLong``."""
        lines = piece.split(b"\n")
        self._keep(lines[0])
        if len(lines) == 1:
            return []
        lines[0] = self.rest()
        self._keep(lines.pop())
        return [line for line in lines if line and not line.isspace()]

    def rest(self) -> bytes:
        """What follows the last newline; taken out."""
        rest = b"".join(self._rest)
        self._rest, self._rest_bytes = [], 0
        return rest

    def _keep(self, piece: bytes) -> None:
        self._rest.append(piece)
        self._rest_bytes += len(piece)
        if self._rest_bytes > LINE_BYTES_MAX:
            raise LineTooLong(f"a result line of more than {LINE_BYTES_MAX} bytes")
