"""What the shell offers for a name or an id: asked of the daemon, in a moment or not at all.

Completing must never be in the way. So there is no second try, nothing is printed, and a daemon that is down, slow or
not found means that nothing is offered.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import typer

from unhurried.cli.overview import STATES

ANSWER_S: Final = 0.5
OFFERED_MAX: Final = 100


def queues(context: typer.Context, incomplete: str) -> list[str]:
    return _starting(incomplete, _ask(context, "/queue/status", "requests"))


def batches(context: typer.Context, incomplete: str) -> list[str]:
    """The newest ones."""
    return _starting(incomplete, _ids(_ask(context, f"/queue/batches?limit={OFFERED_MAX}", "batches")))


def requests(context: typer.Context, incomplete: str) -> list[str]:
    """The newest ones, of the queue that the line names already, if it does."""
    queue = context.params.get("queue")
    of_queue = f"&queue={quote(queue)}" if isinstance(queue, str) else ""
    return _starting(incomplete, _ids(_ask(context, f"/queue/requests?limit={OFFERED_MAX}{of_queue}", "requests")))


def destinations(context: typer.Context, incomplete: str) -> list[str]:
    return _starting(incomplete, [to["name"] for to in _ask(context, "/queue/status", "destinations") or ()])


def models(context: typer.Context, incomplete: str) -> list[str]:
    """Those of the newest batches."""
    found = _ask(context, f"/queue/batches?limit={OFFERED_MAX}", "batches") or ()
    return _starting(incomplete, dict.fromkeys(batch["model"] for batch in found))


def states(incomplete: str) -> list[str]:
    """Of requests; no daemon is needed to know them."""
    return _starting(incomplete, STATES)


def _ask(context: typer.Context, target: str, field: str) -> Any:
    """One field of the answer; None without one."""
    import json

    from unhurried.cli.asking import get

    try:
        path = _socket(context)
        status, body = get(path, target, ANSWER_S) if path is not None else (0, b"")
        return json.loads(body)[field] if status == 200 else None
    except (OSError, ValueError, KeyError):
        return None


def _socket(context: typer.Context) -> Path | None:
    named = context.params.get("socket") or os.environ.get("UNHURRIED_SOCKET")
    if named:
        return Path(named)
    from unhurried.settings import SettingsError, load

    try:
        return load().socket
    except SettingsError:
        return None


def _ids(found: Iterable[dict[str, Any]] | None) -> list[str]:
    return [one["id"] for one in found or ()]


def _starting(incomplete: str, names: Iterable[str] | None) -> list[str]:
    return [name for name in names or () if name.startswith(incomplete)]
