"""``unhurried resume``: lift the account's pause."""

from unhurried.cli.connection import JsonOption, SocketOption, daemon
from unhurried.cli.exits import OK
from unhurried.cli.output import json_out


def resume(json: JsonOption = False, socket: SocketOption = None) -> int:
    """Lift the pause of the account.

    Batches are sent again after upstream refused the account (wrong key, spend limit) and you have mended it.

    \b
    unhurried resume
    """
    with daemon(socket) as client:
        resumed = client.resume_account()
    if json:
        json_out({"resumed": resumed})
    else:
        print("resumed: batches are sent again" if resumed else "nothing to do: the account is not paused")
    return OK
