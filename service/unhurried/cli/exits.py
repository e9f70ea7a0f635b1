"""The exit codes, defined once; ``README.md`` has the same table. Those from 65 on are the ones of ``sysexits.h``."""

from typing import Final

OK: Final = 0
NO: Final = 1
"""The answer is no: not healthy, something is wrong with the database, nothing to cancel."""
USAGE: Final = 2
"""The command line or the input file is wrong; nothing was sent."""
NOT_ALL: Final = 3
"""Done, and some requests did not succeed."""
NOT_EMPTY: Final = 4
"""Draining, and there is work left."""
DATABASE: Final = 65
"""The database is from a newer version, damaged, or of another account."""
UNREACHABLE: Final = 69
"""No daemon answers on the socket, or no upstream."""
BUG: Final = 70
"""An error of the program."""
CANNOT_CREATE: Final = 73
"""The socket, its folder or the database file cannot be made or written, or may not be used."""
TAKEN: Final = 75
"""Another daemon holds the database."""
SETTINGS: Final = 78
"""A setting is misspelt, has an impossible value, or is missing."""
INTERRUPTED: Final = 130
"""Ctrl-C."""
TERMINATED: Final = 143
"""SIGTERM, where nothing had to be finished first."""
PIPE: Final = 141
"""Whoever read the output went away."""


class CliError(Exception):
    """Ends the command: one line that says what is wrong and what to do, and the exit code."""

    def __init__(self, says: str, code: int) -> None:
        super().__init__(says)
        self.code = code
