"""``unhurried backup``: a verified copy of the database, while the daemon runs or not."""

from pathlib import Path
from typing import Annotated

import typer

from unhurried.cli.connection import JsonOption, arm, database_path
from unhurried.cli.exits import DATABASE, OK, CliError
from unhurried.cli.output import counted, json_out, size
from unhurried.cli.progress import Stages


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the copy goes.")],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    database: Annotated[
        Path | None, typer.Option(help="The database to copy.", show_default="the one of the settings")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Copy the database into FILE, and verify the copy.

    The daemon may run and goes on with its work. FILE is one moment of it, readable for its owner only, and gets its
    name when it is complete, sound and on disk: cut short at any moment it is the old one or the new one. Do not copy
    the database with cp while the daemon runs: what is in its log would be missing.

    \b
    unhurried backup /backups/unhurried-monday.db
    unhurried backup --force /backups/unhurried.db
    """
    arm()
    path = database_path(database)
    from unhurried.clock import SystemClock, rfc3339
    from unhurried.store import StoreUnusable
    from unhurried.store.sqlite.backup import back_up

    try:
        with Stages() as stages:
            copied = back_up(
                path, file, SystemClock().now(), lambda done, of: stages.at("pages", done, of), force=force
            )
    except StoreUnusable as error:
        raise CliError(str(error), getattr(error, "exit_code", DATABASE)) from None
    made_at = rfc3339(copied.made_at)
    requests = copied.rows.get("requests", 0)
    if json:
        json_out(
            {
                "database": str(path),
                "file": str(copied.path),
                "bytes": copied.size,
                "schema": copied.schema,
                "made_at": made_at,
                "rows": copied.rows,
            }
        )
    else:
        print(f"{copied.path}: {size(copied.size)}, {counted(requests, 'request')}, verified, as of {made_at}")
    return OK
