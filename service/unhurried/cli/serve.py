"""``unhurried serve``: the daemon, in the foreground."""

from unhurried.cli.connection import load_settings
from unhurried.cli.exits import CANNOT_CREATE, SETTINGS, CliError


def serve() -> int:
    """Run the daemon in the foreground.

    SIGTERM or Ctrl-C stops it in order, a second one at once. Everything is set by UNHURRIED_… variables; `unhurried
    config` lists them. The upstream is Anthropic when a credential is there, or a simulator when it is chosen.

    \b
    ANTHROPIC_API_KEY=… unhurried serve
    UNHURRIED_UPSTREAM__SIMULATOR=true unhurried serve       with `unhurried simulate` beside it
    """
    settings = load_settings()
    from unhurried.app import run  # aiosqlite, uvicorn and the rest: only here
    from unhurried.settings import SettingsError

    try:
        return run(settings)
    except SettingsError as error:
        raise CliError(str(error), SETTINGS) from None
    except PermissionError as error:
        says = f"{error.filename}: {error.strerror}; choose another place or change its owner"
        raise CliError(says, CANNOT_CREATE) from None
    except Exception as error:
        code = getattr(error, "exit_code", None)  # what a person can mend carries one; anything else is a bug
        if code is None:
            raise
        raise CliError(str(error), code) from None
