"""``unhurried resume``: lift the account's pause, or what holds everything back after a restore."""

from typing import Annotated

import typer

from unhurried.cli.connection import JsonOption, SocketOption, daemon
from unhurried.cli.exits import OK
from unhurried.cli.output import json_out, say


def resume(
    restored: Annotated[
        bool, typer.Option("--restored", help="After a restore: send, though the search is not over.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --restored: do it.")] = False,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Lift the pause of the account.

    Batches are sent again after upstream refused the account (wrong key, spend limit) and you have mended it.

    --restored is another matter. After a restore nothing is sent until every batch that upstream made since the copy
    was looked at. With this it is sent now: whatever of it is in a batch that has not ended is paid for a second time.
    The search goes on, and what it finds is collected.

    \b
    unhurried resume
    unhurried resume --restored --yes
    """
    with daemon(socket) as client:
        if restored and not yes:
            return _explain(client.status()["restored"], json)
        done = client.release_restored() if restored else client.resume_account()
    if json:
        json_out({"released" if restored else "resumed": done})
    elif restored:
        print("released: batches are sent again" if done else "nothing to do: nothing is held back after a restore")
    else:
        print("resumed: batches are sent again" if done else "nothing to do: the account is not paused")
    return OK


def _explain(restored: dict[str, object] | None, json: bool) -> int:
    if json:
        json_out({"restored": restored})
    elif restored is None or not restored["held"]:
        print("nothing to do: nothing is held back after a restore")
    else:
        print(f"held back: {restored['detail'] or 'upstream was not looked at yet'}")
        say("requests of the copy that are in it would be sent, and paid for, a second time; nothing was done yet:")
        say("repeat it with --yes")
    return OK
