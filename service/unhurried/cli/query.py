"""``unhurried query``: read the database with SQL, where there is no ``sqlite3`` program."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from unhurried.cli.connection import JsonOption, database_path
from unhurried.cli.exits import DATABASE, OK, USAGE, CliError
from unhurried.cli.output import json_line, say, table

VIEWS = "select name from sqlite_master where type = 'view' order by name"


def query(
    sql: Annotated[
        str, typer.Argument(help="One statement that reads.", show_default="the names of the views")
    ] = VIEWS,
    database: Annotated[
        Path | None, typer.Option(help="The database to read.", show_default="the one of the settings")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many rows.")] = 1_000,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which it is given up.")] = 10.0,
    json: JsonOption = False,
) -> int:
    """Read the database with SQL. It cannot write, and the daemon may run or not.

    The views (v_...) are made for people: `unhurried query` names them. --json gives one object a line.

    \b
    unhurried query "select * from v_open_batches"
    """
    if not sql.strip():
        raise CliError("there is no statement: `unhurried query` alone names the views", USAGE)
    path = database_path(database)
    from unhurried.store import StoreUnusable
    from unhurried.store.sqlite import peek

    try:
        answer = asyncio.run(peek.query(path, sql, rows_max=limit, timeout_s=timeout))
    except peek.BadQuery as error:
        raise CliError(f"SQLite does not run this: {error}", USAGE) from None
    except StoreUnusable as error:
        raise CliError(str(error), getattr(error, "exit_code", DATABASE)) from None
    if json:
        for row in answer.rows:
            json_line(dict(zip(answer.columns, map(_text, row), strict=True)))
    elif answer.columns:
        table(answer.columns, [[_shown(value) for value in row] for row in answer.rows])
    if answer.truncated:
        say(f"unhurried: there are more than {limit:,} rows; --limit shows more")
    return OK


def _text(value: Any) -> Any:
    """Bodies are JSON in UTF-8; a digest, which is no text, in hex."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


def _shown(value: Any) -> Any:
    """A body would fill the screen, and may be none of the reader's business: --json shows it. Numbers stay as they
    are, to be copied into the next query."""
    return f"({len(value):,} bytes)" if isinstance(value, bytes) else "" if value is None else str(value)
