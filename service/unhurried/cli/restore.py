"""``unhurried restore``: put a copy in the place of the database."""

from pathlib import Path
from typing import Annotated

import typer

from unhurried.cli.connection import JsonOption, arm, load_settings
from unhurried.cli.exits import CANNOT_CREATE, DATABASE, OK, TAKEN, USAGE, CliError
from unhurried.cli.output import counted, json_out, say, size
from unhurried.cli.progress import Stages


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A copy that `unhurried backup` has made.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this it is only said what would be done.")] = False,
    database: Annotated[
        Path | None, typer.Option(help="Where it goes.", show_default="the database of the settings")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Put a copy in the place of the database.

    The daemon must be down. FILE is verified first and left as it is; the present database is kept beside the new one
    under a name with the time. Cut short at any moment, it is the old database or the new one; run it again, or start
    the daemon, to finish.

    The copy knows nothing of what was sent after it was made. So the daemon, when it is started on it, sends nothing
    before it has found that upstream, which can take as long as upstream's slowest batch: a day at most. What was
    delivered since is delivered again. What was accepted since is lost here.

    \b
    unhurried restore /backups/unhurried-monday.db
    unhurried restore --yes /backups/unhurried-monday.db
    """
    arm()
    path = (database or load_settings().database).resolve()
    from unhurried.clock import SystemClock
    from unhurried.store import StoreUnusable
    from unhurried.store.sqlite.place import holder, prepare_folder
    from unhurried.store.sqlite.swap import open_copy_of

    if not file.exists():
        raise CliError(f"there is no file {file}", USAGE)
    if file.resolve() == path:
        raise CliError(f"{file} is the database itself", USAGE)
    try:
        open_copy_of(file).close()
        if not yes:
            held = holder(path)
            say(f"{file} would take the place of {path}, which would be kept beside it")
            if held is not None:
                say(f"a daemon (pid {held.pid}) holds the database: stop it first")
            say("nothing was done yet: repeat it with --yes")
            return TAKEN if held is not None else OK
        prepare_folder(path)
        return _do(file, path, SystemClock().now(), json)
    except StoreUnusable as error:
        raise CliError(str(error), getattr(error, "exit_code", DATABASE)) from None
    except PermissionError as error:
        raise CliError(f"{error.filename}: {error.strerror}; run this as the daemon's user", CANNOT_CREATE) from None


def _do(file: Path, path: Path, now: int, json: bool) -> int:
    from unhurried.clock import Ms
    from unhurried.store.sqlite.place import InstanceLock
    from unhurried.store.sqlite.swap import finish, put_in_place

    lock = InstanceLock(path)
    lock.acquire()
    try:
        if (swapped := finish(path)) is not None:
            told: dict[str, object] = {"restored": None, "finished": True}
            says = f"{path}: a restore that was cut short is finished now; run this again to restore {file}"
        else:
            with Stages() as stages:
                copied, swapped = put_in_place(file, path, Ms(now), lambda done, of: stages.at("pages", done, of))
            told = {
                "restored": str(file),
                "database": str(path),
                "bytes": copied.size,
                "schema": copied.schema,
                "rows": copied.rows,
                "finished": False,
            }
            requests = counted(copied.rows.get("requests", 0), "request")
            says = f"{path}: restored from {file} ({size(copied.size)}, {requests})"
    finally:
        lock.release()
    if json:
        json_out({**told, "aside": swapped.aside and str(swapped.aside)})
        return OK
    print(says)
    if swapped.aside is not None:
        also = ", with its log beside it: it could not be read" if swapped.logged else ""
        print(f"the database before it is kept as {swapped.aside}{also}")
    say("started on it, the daemon sends nothing before it has found what was sent since the copy was made;")
    say("`unhurried status` shows what it waits for. Results delivered since are delivered again")
    return OK
