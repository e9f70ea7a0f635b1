"""``unhurried batches list|show``."""

from typing import Annotated

import typer

from unhurried.cli import completion
from unhurried.cli.connection import JsonOption, SocketOption, daemon
from unhurried.cli.exits import OK
from unhurried.cli.output import age, fields, json_line, json_out, size, table


def list_(
    open_only: Annotated[bool, typer.Option("--open", help="Only those that still owe results.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """List batches, newest first.

    --json gives one object a line.

    \b
    unhurried batches list --open
    """
    with daemon(socket) as client:
        batches = client.batches(open_only=open_only, limit=limit)
    if json:
        for batch in batches:
            json_line(batch)
        return OK
    columns = ("id", "state", "queue", "model", "requests", "open", "age", "why", "upstream id", "detail")
    rows = [
        (b["id"], b["state"], b["queue"], b["model"], b["requests"], b["members_open"], age(b["created_at"]), b["why"],
         b["upstream_id"], b["detail"])
        for b in batches
    ]  # fmt: skip
    table(columns, rows, right=("requests", "open", "age"))
    return OK


def show(
    batch_id: Annotated[
        str, typer.Argument(metavar="ID", help="Our id of the batch.", autocompletion=completion.batches)
    ],
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """Show one batch.

    What upstream knows of it, how its members ended, and every event.

    \b
    unhurried batches show 0198f0c2-5b1e-7c3a-9d5e-0a6f6f3f2c11
    """
    with daemon(socket) as client:
        batch = client.batch(batch_id)
    if json:
        json_out(batch)
        return OK
    by_state = ", ".join(f"{count:,} {state}" for state, count in (batch.get("attempts_by_state") or {}).items())
    fields(
        [
            ("batch", batch["id"]),
            ("state", batch["state"]),
            ("upstream id", batch["upstream_id"]),
            ("queue", batch["queue"]),
            ("model", batch["model"]),
            ("requests", f"{batch['requests']:,}, {batch['members_open']:,} open, body {size(batch['body_bytes'])}"),
            ("attempts", by_state),
            ("why", batch["why"]),
            ("nonce", batch["nonce"]),
            ("formed", batch["created_at"]),
            ("submitted", batch["submit_started_at"]),
            ("created upstream", batch["upstream_created_at"]),
            ("ended upstream", batch["upstream_ended_at"]),
            ("expires", batch["upstream_expires_at"]),
            ("finished", batch["finished_at"]),
            ("adopted", "found by the settlement" if batch["adopted"] else None),
            ("late", "a twin found after it had been given up" if batch["late"] else None),
            ("detail", batch["detail"]),
        ]
    )
    for event in batch.get("events") or ():
        change = f"{event['old_state'] or '·'} → {event['new_state']}" if event.get("new_state") else event["what"]
        print(f"  {event['at']}  {event['actor']:<10}  {change}  {event.get('detail') or ''}".rstrip())
    return OK
