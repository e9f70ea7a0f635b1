"""``unhurried results pull|ack|stream``: results by hand. ``submit --output`` does both, and the book-keeping."""

import sys
from typing import Annotated

import typer

from unhurried.cli import completion
from unhurried.cli.connection import JsonOption, SocketOption, daemon
from unhurried.cli.exits import NO, OK
from unhurried.cli.output import json_line, json_out


def pull(
    destination: Annotated[
        str, typer.Option(help="Whose results.", autocompletion=completion.destinations)
    ] = "pull:default",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 100,
    wait: Annotated[float, typer.Option(min=0, help="Wait so many seconds for the first one.")] = 0,
    lease: Annotated[float | None, typer.Option(min=1, help="Seconds until they are handed out again.")] = None,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Fetch results that nobody has acknowledged.

    One JSON object a line, with or without --json. They come again when the lease is over, until they are acknowledged.

    \b
    unhurried results pull --destination pull:labels --wait 60
    """
    with daemon(socket) as client:
        for result in client.pull(destination, limit=limit, wait=wait, lease=lease):
            json_line(result)
    return OK


def ack(
    delivery_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="`delivery_id` of pulled results.")],
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Acknowledge results.

    They are safe with you and are not handed out again. Exit 1 if an id is unknown.

    \b
    unhurried results ack 0198f0c2-….1
    """
    with daemon(socket) as client:
        acked = client.ack(delivery_ids)
    if json:
        json_out(acked)
    else:
        print(f"{len(acked.confirmed):,} confirmed, {len(acked.already):,} were before, {len(acked.unknown):,} unknown")
    return NO if acked.unknown else OK


def stream(
    destination: Annotated[str, typer.Option(help="Whose results.")] = "pull:default",
    window: Annotated[int, typer.Option(min=1, max=1000, help="At most so many unacknowledged at once.")] = 100,
    lease: Annotated[float | None, typer.Option(min=1, help="Seconds until they are handed out again.")] = None,
    after: Annotated[int | None, typer.Option(min=0, help="Skip what came before this `event_id`, and it.")] = None,
    wait: Annotated[float | None, typer.Option(min=0, help="End when nothing came for so many seconds.")] = None,
    ack_: Annotated[bool, typer.Option("--ack", help="Acknowledge each one once it is printed.")] = False,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Print results as they come, one JSON object a line, with or without --json.

    Without --ack they go back when this ends, and no more than the window come. With --ack each is acknowledged once
    whatever reads the output has taken it.

    \b
    unhurried results stream --destination pull:labels --ack >> results.jsonl
    """
    with daemon(socket) as client:
        for result in client.stream(destination, window=window, lease=lease, after=after, wait=wait):
            json_line(result)
            sys.stdout.flush()
            if ack_ and result.delivery_id is not None:
                client.ack([result.delivery_id])
    return OK
