"""``unhurried requests list|show|cancel``."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from unhurried.cli import completion
from unhurried.cli.connection import JsonOption, SocketOption, daemon
from unhurried.cli.exits import NO, OK, CliError
from unhurried.cli.output import age, fields, json_line, json_out, say, size, table

PAGE: int = 1000
RequestId = Annotated[
    str, typer.Argument(metavar="ID", help="The id that accepting it gave.", autocompletion=completion.requests)
]


def list_(
    queue: Annotated[str | None, typer.Option(help="Only of this queue.", autocompletion=completion.queues)] = None,
    state: Annotated[
        str | None,
        typer.Option(help="Only in this state: queued, submitted, succeeded, …", autocompletion=completion.states),
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="Only members of this batch.", autocompletion=completion.batches)
    ] = None,
    custom_id: Annotated[str | None, typer.Option(help="Only with this custom_id.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> int:
    """List requests, newest first.

    --json gives one object a line.

    \b
    unhurried requests list --queue labels --state queued
    """
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    with daemon(socket) as client:
        while len(found) < limit:
            page, cursor = client.requests(
                queue=queue,
                state=state,
                batch=batch,
                custom_id=custom_id,
                limit=min(PAGE, limit - len(found)),
                cursor=cursor,
            )
            found += page
            if cursor is None:
                break
        if queue is not None and not found:
            client.queue(queue)  # raises, with the names of those that there are
    if json:
        for view in found:
            json_line(view)
        return OK
    columns = ("id", "state", "queue", "model", "custom_id", "age", "attempts", "batch", "delivery")
    rows = [
        (v["id"], v["state"], v["queue"], v["model"], v["custom_id"], age(v["accepted_at"]), v["attempts"], v["batch"],
         v["delivery"])
        for v in found
    ]  # fmt: skip
    table(columns, rows, right=("attempts", "age"))
    if cursor is not None:
        say(f"there are more: --limit {limit * 10}")
    return OK


def show(request_id: RequestId, json: JsonOption = False, socket: SocketOption = None) -> int:
    """Show one request and what happened to it.

    Its attempts, batch, events, delivery and result.

    \b
    unhurried requests show 0198f0c2-5b1e-7c3a-9d5e-0a6f6f3f2c11
    """
    from unhurried.client import QueueError

    with daemon(socket) as client:
        try:
            view = client.get(request_id)
        except QueueError as error:
            if error.status != 404 or _is_id(request_id):
                raise
            raise CliError(
                f"{request_id!r} is not the id of a request; to look for a custom_id:"
                f" `unhurried requests list --custom-id {request_id}`",
                NO,
            ) from None
        attempts = client.attempts(request_id)
        events = client.events(request_id)
        batch = client.batch(view["batch"]) if view.get("batch") else None
    if json:
        json_out({**view, "attempts_view": attempts, "events": events, "batch_view": batch})
        return OK
    view = dict(view)
    result = view.pop("result", None)
    fields(
        [
            ("request", view["id"]),
            ("state", view["state"]),
            ("custom_id", view["custom_id"]),
            ("queue", view["queue"]),
            ("model", view["model"]),
            ("priority", view["priority"]),
            ("params", size(view["params_bytes"])),
            ("accepted", _moment(view["accepted_at"])),
            ("deadline", _moment(view["deadline_at"])),
            ("not before", _moment(view["not_before"])),
            ("waits until", _moment(view["waits_until"])),
            ("cancel asked", _moment(view["cancel_requested_at"])),
            ("erased", _moment(view.get("erased_at"))),
            ("finished", _moment(view["finished_at"])),
            ("attempts", f"{view['attempts']} of {view['attempts_max']}, generation {view['generation']}"),
            ("batch", _batch(batch) if batch else None),
            ("delivery", f"{view['delivery'] or 'none yet'} to {view['deliver_to']}"),
        ]
    )
    for number, attempt in enumerate(attempts, start=1):
        print(f"  attempt {number}: {_attempt(attempt)}")
    for event in events:
        print(f"  {event['at']}  {event['what']}  {event.get('detail') or ''}".rstrip())
    if result is not None:
        print("result")
        json_out(result)
    return OK


def cancel(request_id: RequestId, json: JsonOption = False, socket: SocketOption = None) -> int:
    """Cancel a request.

    What is queued is canceled at once; what has been sent is not repeated, and an answer still counts.

    \b
    unhurried requests cancel 0198f0c2-5b1e-7c3a-9d5e-0a6f6f3f2c11
    """
    from unhurried.client import QueueError

    with daemon(socket) as client:
        try:
            view = client.cancel(request_id)
        except QueueError as error:
            if error.status != 409:
                raise
            raise CliError(f"{error}: too late to cancel", NO) from None
    if json:
        json_out(view)
    elif view["state"] == "canceled":
        print("canceled")
    else:
        print(f"it is {view['state']}: flagged, it will not be sent again; if upstream answers, that is its outcome")
    return OK


def _is_id(text: str) -> bool:
    import uuid

    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _batch(batch: Mapping[str, Any]) -> str:
    upstream = f"upstream {batch['upstream_id']}" if batch["upstream_id"] else "upstream has not confirmed it"
    return f"{batch['id']} ({batch['state']}, {upstream})"


def _attempt(attempt: Mapping[str, Any]) -> str:
    """One line: what became of it, in which batch, under which name."""
    parts = [attempt["state"] + (", the outcome" if attempt["won"] else "")]
    parts += [attempt[name] for name in ("ended_at", "error_type", "stop_reason") if attempt[name] is not None]
    if attempt["input_tokens"] is not None or attempt["output_tokens"] is not None:
        parts.append(f"{attempt['input_tokens'] or 0:,} tokens in, {attempt['output_tokens'] or 0:,} out")
    parts.append(f"batch {attempt['batch']}")
    if attempt["upstream_batch"] is not None:
        parts.append(f"{attempt['custom_id']} in {attempt['upstream_batch']}")
    return "; ".join(parts)


def _moment(text: str | None) -> str | None:
    if text is None:
        return None
    told = age(text)
    return f"{text} ({told if told.startswith('in ') else told + ' ago'})"
