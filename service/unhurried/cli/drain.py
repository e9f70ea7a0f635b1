"""``unhurried drain`` and ``unhurried undrain``."""

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import typer

from unhurried.cli.connection import JsonOption, SocketOption, daemon
from unhurried.cli.exits import NOT_EMPTY, OK
from unhurried.cli.output import counted, duration, json_out, say

LOOK_S: Final = 1.0


def drain(
    wait: Annotated[bool, typer.Option("--wait", help="Stay until nothing is left.")] = False,
    timeout: Annotated[float | None, typer.Option(min=0, help="Give up waiting after so many seconds.")] = None,
    stop: Annotated[
        bool, typer.Option("--stop", help="Once nothing is left, stop the daemon; implies --wait.")
    ] = False,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Accept nothing new, and let everything go its way.

    Nothing lingers any more; batches are waited for, which may take upstream's 24 hours; webhooks are sent. Results to
    be pulled are left for their callers: they are safe on disk. A restart of the daemon accepts again, as does
    `unhurried undrain`. The exit code is 0 when nothing is left, and 4 when something is.

    \b
    unhurried drain --wait --timeout 7200
    unhurried drain --stop
    """
    with daemon(socket) as client:
        told = client.drain()
        if (wait or stop) and not told["empty"]:
            told = _until_empty(client.drained, timeout)
        if stop and told["empty"]:
            told = client.drain(stop=True)
    if json:
        json_out(told)
    elif told["empty"]:
        print("nothing is left; the daemon stops" if told["stopping"] else "nothing is left; nothing new is accepted")
    else:
        print(f"left: {_left(told)}")
        for reason in told["held_by"]:
            print(f"  {reason}")
        say("it goes on draining: `unhurried drain --wait` waits, `unhurried undrain` accepts again")
    return OK if told["empty"] else NOT_EMPTY


def undrain(json: JsonOption = False, socket: SocketOption = None) -> int:
    """Accept requests again after a drain.

    \b
    unhurried undrain
    """
    with daemon(socket) as client:
        was_draining = client.undrain()
    if json:
        json_out({"was_draining": was_draining})
    else:
        print("new requests are accepted again" if was_draining else "it was not being drained")
    return OK


def _until_empty(look: Callable[[], dict[str, Any]], timeout_s: float | None) -> dict[str, Any]:
    """What was seen last: nothing left, or what was left when the time was over."""
    begun = time.monotonic()
    shown = ""
    while True:
        told = look()
        waited_s = time.monotonic() - begun
        if told["empty"] or (timeout_s is not None and waited_s >= timeout_s):
            return told
        if (left := _left(told)) != shown:
            say(f"after {duration(waited_s)}: {left}")
            shown = left
        time.sleep(LOOK_S if timeout_s is None else min(LOOK_S, max(timeout_s - waited_s, 0.01)))


def _left(told: Mapping[str, Any]) -> str:
    parts = [f"{told[key]:,} {key}" for key in ("queued", "sent") if told[key]]
    if told["open_batches"]:
        parts.append(counted(told["open_batches"], "open batch", "open batches"))
    if told["to_push"]:
        parts.append(f"{told['to_push']:,} to push")
    return ", ".join(parts) or "nothing"
