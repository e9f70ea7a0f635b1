"""Moments on the command line: a span back from now, or a time."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from unhurried.cli.exits import USAGE, CliError

UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def since(text: str | None) -> str | None:
    """``2h`` ago, or the moment itself. Raises ``CliError`` for anything else."""
    if text is None:
        return None
    try:
        if match := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
            return (datetime.now(UTC) - timedelta(**{UNITS[match[2]]: float(match[1])})).isoformat()
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise CliError(f"--since {text!r} is neither a span such as 2h nor a time such as 2026-11-22T08:00:00Z", USAGE)
    return text
