"""The command line: one file per command, each a thin caller of the client or of the one room it shows.

Data goes to stdout, everything else to stderr. Nothing slow is imported before it is needed, and ``anthropic`` never:
only the daemon that ``serve`` starts does that, once its socket answers.
"""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from unhurried.cli.exits import BUG, INTERRUPTED, PIPE, TERMINATED, CliError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    signal.signal(signal.SIGTERM, _end)  # first of all: as PID 1 a process without a handler ignores SIGTERM
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except CliError as error:
        _say(str(error))
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails as well
        return PIPE
    except Exception as error:  # noqa: BLE001  # the outermost: a bug is reported, and has an exit code of its own
        _report_bug(error)
        return BUG


def _run(arguments: Sequence[str]) -> int:
    from unhurried.cli.probe import quick

    if (answered := quick(arguments)) is not None:
        return answered
    import typer

    from unhurried.cli.commands import commands

    try:
        code = typer.main.get_command(commands()).main(list(arguments), prog_name="unhurried", standalone_mode=False)
        sys.stdout.flush()
    except typer.Abort:
        return INTERRUPTED
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # click makes a plain 1 of it
            raise ended.__context__ from None
        raise
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "unhurried"
        says = error.format_message() if hasattr(error, "format_message") else str(error)
        mark = "" if says.endswith("?") else ":"
        _say(f"{says.rstrip('.')}{mark} `{path} --help` shows how")
        return int(getattr(error, "exit_code", 1))
    return code if isinstance(code, int) else 0


def _say(text: str) -> None:
    print(f"unhurried: {text}", file=sys.stderr)


def _report_bug(error: Exception) -> None:
    import traceback

    traceback.print_exception(error)  # the frames, never their variables: those may hold prompts
    _say(f"this is a bug in unhurried ({type(error).__name__}); the lines above say where")


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)
