"""Reaching the daemon: which socket, and what to say when nothing answers there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unhurried.cli.exits import NO, SETTINGS, UNREACHABLE, USAGE, CliError

if TYPE_CHECKING:
    from unhurried.client import Client, QueueError
    from unhurried.settings import Settings

SocketOption = Annotated[
    Path | None, typer.Option("--socket", help="Socket of the daemon; else UNHURRIED_SOCKET, else the usual place.")
]
START_IT = "Start it with `unhurried serve`, or name its socket with --socket"
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout instead of text.")]


def load_settings() -> "Settings":
    from unhurried.settings import SettingsError, load

    try:
        return load()
    except SettingsError as error:
        raise CliError(str(error), SETTINGS) from None


def socket_path(given: Path | None) -> Path:
    """The socket that was named, by option or variable; only without either the settings are read."""
    named = given or os.environ.get("UNHURRIED_SOCKET")
    return Path(named) if named else load_settings().socket


class NotRunning(CliError):
    """No daemon listens on the socket."""


@contextmanager
def daemon(given: Path | None) -> Iterator["Client"]:
    """A client of the daemon. What it raises ends the command with one line and the right exit code."""
    from unhurried.client import Client, DaemonDown, DaemonUnreachable, QueueError

    path = socket_path(given)
    try:
        with Client(path) as client:
            yield client
    except DaemonDown as error:
        raise NotRunning(f"{error}. {START_IT}", UNREACHABLE) from None
    except DaemonUnreachable as error:
        raise CliError(f"{error}. {START_IT}", UNREACHABLE) from None
    except QueueError as error:
        raise CliError(explain(error), USAGE if error.status in (400, 422) else NO) from None


def explain(error: "QueueError") -> str:
    """One line: what the daemon said, and when it may say something else."""
    again = f" (again in {error.retry_after_s:g} s)" if error.retry_after_s else ""
    return f"{error}{again} [{error.code}]"


def database_path() -> Path | None:
    """The database of the settings, if they can be read and it is there."""
    from unhurried.settings import SettingsError, load

    try:
        path = load().database
    except SettingsError:
        return None
    return path if path.is_file() else None
