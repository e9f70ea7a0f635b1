"""Reaching the daemon: which socket, and what to say when nothing answers there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from unhurried.cli.exits import CANNOT_CREATE, NO, SETTINGS, UNREACHABLE, USAGE, CliError

if TYPE_CHECKING:
    from unhurried.client import Client, DaemonUnreachable, QueueError
    from unhurried.settings import Settings

SocketOption = Annotated[
    Path | None, typer.Option("--socket", help="Socket of the daemon; else UNHURRIED_SOCKET, else the usual place.")
]
START: Final = "start it (systemctl, docker compose, kubectl), or `unhurried serve`"
SET_SOCKET: Final = "set UNHURRIED_SOCKET if it is elsewhere (`unhurried config` shows it), or "
WITHOUT_IT: Final = "`unhurried status` and `unhurried query` read the database without it"
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout instead of text.")]


def load_settings() -> "Settings":
    from unhurried.settings import SettingsError, load

    try:
        return load()
    except SettingsError as error:
        raise CliError(str(error), SETTINGS) from None


def arm() -> None:
    """The failpoints of a test; refused where upstream is a real one."""
    from unhurried.settings import SettingsError, arm_failpoints

    try:
        arm_failpoints(load_settings().upstream)
    except SettingsError as error:
        raise CliError(str(error), SETTINGS) from None


def socket_path(given: Path | None) -> Path:
    """The socket that was named, by option or variable; only without either the settings are read."""
    named = given or os.environ.get("UNHURRIED_SOCKET")
    return Path(named) if named else load_settings().socket


class NoAnswer(CliError):
    """Nobody could be reached on the socket: it is not there, nobody listens, or it may not be used. ``why`` says so
    without advice."""

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(f"{why}; {advice}", UNREACHABLE)
        self.why = why
        self.advice = advice


@contextmanager
def daemon(given: Path | None) -> Iterator["Client"]:
    """A client of the daemon. What it raises ends the command with one line and the right exit code."""
    from unhurried.client import Client, DaemonUnreachable, QueueError

    path = socket_path(given)
    try:
        with Client(path) as client:
            yield client
    except DaemonUnreachable as error:
        raise unreachable(error, path) from None
    except QueueError as error:
        raise CliError(explain(error), USAGE if error.status in (400, 422) else NO) from None


def unreachable(error: "DaemonUnreachable", path: Path | None) -> CliError:
    """What to do about it, as far as its kind tells. ``path``: the socket."""
    from unhurried.client import DaemonDown, DaemonForbidden
    from unhurried.settings import default_socket

    if isinstance(error, DaemonForbidden):
        return NoAnswer(str(error), "run this as the daemon's user, or see UNHURRIED_INGEST__SOCKET_MODE")
    if not isinstance(error, DaemonDown):
        return CliError(f"{error}. {WITHOUT_IT}", UNREACHABLE)
    elsewhere = SET_SOCKET if path == default_socket() else ""
    return NoAnswer(str(error), f"{elsewhere}{START}. {WITHOUT_IT}")


def explain(error: "QueueError") -> str:
    """One line: what the daemon said, and when it may say something else."""
    again = f" (again in {error.retry_after_s:g} s)" if error.retry_after_s else ""
    return f"{error}{again} [{error.code}]"


def database_path(given: Path | None) -> Path:
    """The database to read: the one that was named, or the settings'. Raises ``CliError`` where there is none."""
    path = given or load_settings().database
    try:
        if path.is_dir():
            raise CliError(f"{path} is a folder: name the file in it ({path}/unhurried.db)", USAGE)
        there = path.exists()
    except PermissionError:
        raise CliError(f"no permission to look at {path}: run this as the daemon's user", CANNOT_CREATE) from None
    if there:
        return path
    from unhurried.settings import default_database

    if path != default_database():
        raise CliError(f"there is no database at {path}", USAGE)
    raise CliError(
        f"there is no database at {path}, the default place: set UNHURRIED_DATABASE (`unhurried config` shows it), or"
        " name it with --database",
        USAGE,
    )
