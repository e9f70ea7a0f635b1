"""The question of ``unhurried health``, and the quick way to it.

A probe runs every few seconds for as long as the container lives, and reading the command line with typer takes ten
times longer than asking. So the plain forms are read here; everything else (``--help``, a mistake, no socket named)
goes the usual way, and both end in ``ask``.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from unhurried.cli.asking import get
from unhurried.cli.exits import NO, OK

TIMEOUT_S: Final = 10.0
TIMEOUT_MIN_S: Final = 0.1


@dataclass
class Question:
    socket: Path
    ready: bool = False
    timeout_s: float = TIMEOUT_S
    json: bool = False


def quick(arguments: Sequence[str]) -> int | None:
    """Answer ``unhurried health …``; None when that takes more than this knows."""
    if not arguments or arguments[0] != "health":
        return None
    question = _read(arguments[1:])
    return ask(question) if question is not None else None


def _read(options: Sequence[str]) -> Question | None:
    question = Question(Path(os.environ.get("UNHURRIED_SOCKET", "")))
    kinds = set()
    rest = iter(options)
    for option in rest:
        match option:
            case "--ready" | "--live":
                kinds.add(option)
                question.ready = option == "--ready"
            case "--json":
                question.json = True
            case "--socket":
                question.socket = Path(next(rest, ""))
            case "--timeout":
                try:
                    question.timeout_s = float(next(rest, ""))
                except ValueError:
                    return None
            case _:
                return None
    good = question.socket.name and question.timeout_s >= TIMEOUT_MIN_S and len(kinds) < 2
    return question if good else None


def ask(question: Question) -> int:
    """Print what the daemon says of itself, and return the exit code. Whatever is wrong is a no: Docker knows only 0
    and 1."""
    well, text, answer = _asked(question)
    if question.json:
        print(text)
    elif well:
        print("ready" if question.ready else "healthy")
    else:
        why = answer.get("reason") or answer.get("detail") or answer
        print(f"unhurried: not {'ready' if question.ready else 'healthy'}: {why}", file=sys.stderr)
    return OK if well else NO


def _asked(question: Question) -> tuple[bool, str, dict[str, Any]]:
    import json

    try:
        status, body = get(question.socket, "/readyz" if question.ready else "/healthz", question.timeout_s)
        return status == 200, body.decode(), json.loads(body)
    except OSError as error:
        says = f"no daemon answers at {question.socket}: {error}"
    except ValueError as error:
        says = str(error)
    told = {"status": "unreachable", "reason": says}
    return False, json.dumps(told), told
