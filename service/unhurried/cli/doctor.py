"""``unhurried doctor``: check every invariant of the database."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from unhurried.cli.connection import JsonOption, database_path
from unhurried.cli.exits import DATABASE, NO, OK, CliError
from unhurried.cli.output import counted, json_out


def doctor(
    database: Annotated[
        Path | None, typer.Option(help="The database to look at.", show_default="the one of the settings")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Check every promise on the database.

    It only reads, and the daemon may run or not. Exit 1 with what is wrong.

    \b
    unhurried doctor --database /var/lib/unhurried/unhurried.db
    """
    path = database_path(database)
    from unhurried.store import StoreUnusable
    from unhurried.store.sqlite.doctor import examine
    from unhurried.store.sqlite.peek import peek

    try:
        complaints = asyncio.run(examine(path))
        restored = asyncio.run(peek(path)).restored
    except StoreUnusable as error:
        raise CliError(str(error), getattr(error, "exit_code", DATABASE)) from None
    if json:
        json_out({"database": str(path), "well": not complaints, "complaints": complaints, "restored": restored})
        return NO if complaints else OK
    if restored is not None and restored.held:
        waits = restored.detail or "the daemon was not started on it yet"
        print(f"{path}: restored from a copy, nothing is sent until what was sent since is found: {waits}")
    if not complaints:
        print(f"{path}: every invariant holds")
        return OK
    for complaint in complaints:
        print(f"{complaint.invariant}: {complaint.says} ({counted(complaint.count, 'time')})")
        for example in complaint.examples:
            print(f"    {example}")
    print(f"{path}: {counted(len(complaints), 'invariant')} broken")
    return NO
