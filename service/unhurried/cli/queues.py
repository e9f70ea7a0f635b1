"""``unhurried queues list|show|set|pause|resume``."""

import json as standard
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from unhurried.cli import completion
from unhurried.cli.connection import JsonOption, SocketOption, daemon
from unhurried.cli.exits import NO, OK, USAGE, CliError
from unhurried.cli.output import fields, json_line, json_out, table

QueueName = Annotated[str, typer.Argument(metavar="NAME", help="The queue.", autocompletion=completion.queues)]
TEXTS: Final = ("deliver_to", "anthropic_version", "anthropic_beta")
STATES: Final = ("queued", "assigned", "succeeded", "errored", "expired", "canceled")


def list_(json: JsonOption = False, socket: SocketOption = None) -> int:
    """List queues, with what is set for each.

    --json gives one object a line.

    \b
    unhurried queues list
    """
    with daemon(socket) as client:
        found = client.queues()
    if json:
        for one in found:
            json_line(one)
        return OK
    rows = [
        (one["name"], _state(one), *[one["requests"].get(state, 0) for state in STATES], _own(one["settings"]))
        for one in found
    ]
    table(("queue", "state", *STATES, "settings"), rows, right=STATES)
    return OK


def show(name: QueueName, json: JsonOption = False, socket: SocketOption = None) -> int:
    """Show one queue: what holds for it, and what of that it says itself.

    \b
    unhurried queues show labels
    """
    with daemon(socket) as client:
        found = client.queue(name)
    _tell(found, json)
    return OK


def set_(
    name: QueueName,
    settings: Annotated[
        list[str], typer.Argument(metavar="SETTING=VALUE...", help="What to change; `default` hands it back.")
    ],
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Change settings of a queue.

    It may be one that has no request yet. `default` as a value hands the setting back to the daemon. Changes hold for
    requests that are accepted from now on, and for what waits to be sent.

    \b
    linger_s=SECONDS            longest wait of its oldest request
    batch_requests_max=N        most requests in a batch
    batch_bytes_max=BYTES       largest body of a batch
    deadline_s=SECONDS          deadline of a request that names none
    attempts_max=N              attempts a new request has
    priority=-9..9              of a request that names none
    deliver_to=DESTINATION      of a request that names none
    anthropic_version=DATE      of a request that names none
    anthropic_beta=NAME,NAME    of a request that names none
    open_requests_max=N         open requests at which new ones are refused
    retention_days=DAYS         a request is kept for so long after its delivery
    unread_days=DAYS            an undelivered result is kept for so long

    \b
    unhurried queues set labels linger_s=30 retention_days=7
    unhurried queues set labels linger_s=default
    """
    changes = dict(_parsed(text) for text in settings)
    with daemon(socket) as client:
        changed = client.set_queue(name, **changes)
    _tell(changed, json)
    return OK


def pause(
    name: QueueName,
    reason: Annotated[str | None, typer.Option(help="Why, for whoever looks later.")] = None,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Form no batch of a queue until it is resumed.

    It goes on accepting. What is in a batch already goes its way.

    \b
    unhurried queues pause labels --reason "the prompt is wrong"
    """
    with daemon(socket) as client:
        paused = client.pause_queue(name, reason)
    if json:
        json_out(paused)
    else:
        print(f"{name} is paused: {paused['pause_reason']}")
    return OK


def resume(name: QueueName, json: JsonOption = False, socket: SocketOption = None) -> int:
    """End the pause of a queue.

    \b
    unhurried queues resume labels
    """
    with daemon(socket) as client:
        resumed = client.resume_queue(name)
    if json:
        json_out({"resumed": resumed})
    elif not resumed:
        raise CliError(f"{name} was not paused", NO)
    else:
        print(f"{name} is open again")
    return OK


def _parsed(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise CliError(f"{text!r} is not SETTING=VALUE; `unhurried queues set --help` lists the settings", USAGE)
    if value == "default":
        return name, None
    if name in TEXTS:
        return name, value
    try:
        number = standard.loads(value)
    except ValueError:
        number = value  # the daemon says what it must be
    return name, number


def _tell(queue: Mapping[str, Any], json: bool) -> None:
    if json:
        json_out(queue)
        return
    own, effective = queue["settings"], queue["effective"]
    fields(
        [
            ("queue", queue["name"]),
            ("state", _state(queue)),
            ("since", queue["created_at"]),
            ("requests", ", ".join(f"{n:,} {state}" for state, n in queue["requests"].items()) or "none"),
        ]
    )
    print()
    rows = [
        (name, _shown(name, value), "queue" if own[name] is not None else "daemon") for name, value in effective.items()
    ]
    table(("setting", "value", "set by"), rows)


def _state(queue: Mapping[str, Any]) -> str:
    return f"paused: {queue['pause_reason'] or 'no reason given'}" if queue["paused"] else "open"


def _own(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items() if value is not None)


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "for ever" if name == "unread_days" else "none"
    return str(value) if value != "" else "none"
