"""``unhurried status``: the whole queue at a glance."""

from collections.abc import Mapping
from typing import Any, Final

from unhurried.cli.connection import JsonOption, SocketOption, daemon, database_hint
from unhurried.cli.exits import OK, UNREACHABLE, CliError
from unhurried.cli.output import age, duration, fields, json_out, size, table

STATES: Final = ("queued", "assigned", "submitted", "succeeded", "errored", "expired", "canceled")


def status(json: JsonOption = False, socket: SocketOption = None) -> int:
    """Show the queue at a glance.

    Requests by queue and state, open batches, the account, and what waits to be handed over.

    \b
    unhurried status --json
    """
    try:
        with daemon(socket) as client:
            told = client.status()
    except CliError as error:
        if error.code != UNREACHABLE:
            raise
        raise CliError(f"{error}{database_hint()}", UNREACHABLE) from None
    if json:
        json_out(told)
    else:
        _show(told)
    return OK


def _show(told: Mapping[str, Any]) -> None:
    queues: Mapping[str, Mapping[str, int]] = told["requests"]
    if queues:
        rows = [(queue, *[counts.get(state, 0) for state in STATES]) for queue, counts in sorted(queues.items())]
        table(("queue", *STATES), rows, right=STATES)
    else:
        print("no requests yet")
    if told["open_batches"]:
        print()
        columns = ("open batch", "state", "queue", "model", "requests", "age", "expires", "upstream id", "detail")
        rows = [
            (b["id"], b["state"], b["queue"], b["model"], b["requests"], age(b["submit_started_at"] or b["created_at"]),
             age(b["upstream_expires_at"]), b["upstream_id"], b["detail"])
            for b in told["open_batches"]
        ]  # fmt: skip
        table(columns, rows, right=("requests", "age"))
    print()
    account, process = told.get("account") or {}, told.get("daemon") or {}
    upstream, memory, stall = process.get("upstream") or {}, process.get("memory") or {}, process.get("stall") or {}
    simulated = " (the simulator)" if upstream.get("simulator") else ""
    fields(
        [
            ("upstream", f"{upstream.get('base_url') or account.get('base_url') or ''}{simulated}"),
            ("account", _account(account)),
            ("paused queues", ", ".join(told.get("paused_queues") or ())),
            ("waiting", size(told["waiting_bytes"]) if told.get("waiting_bytes") else None),
            ("oldest queued", age(told.get("oldest_queued_at"))),
            ("nearest deadline", age(told.get("nearest_deadline"))),
            ("to hand over", _deliveries(told)),
            ("daemon", _process(process, memory, stall)),
        ]
    )


def _account(account: Mapping[str, Any]) -> str:
    if not account.get("paused"):
        return "open"
    until = account.get("paused_until")
    end = f"until {until}" if until else "until `unhurried resume`"
    return f"PAUSED {end}: {account.get('pause_reason') or 'no reason given'}"


def _deliveries(told: Mapping[str, Any]) -> str:
    oldest = age(told.get("oldest_delivery_at"))
    return f"{told.get('deliveries_pending', 0):,} results" + (f", the oldest for {oldest}" if oldest else "")


def _process(process: Mapping[str, Any], memory: Mapping[str, Any], stall: Mapping[str, Any]) -> str:
    parts = [f"version {process.get('version')}", f"pid {process.get('pid')}"]
    if (uptime := process.get("uptime_s")) is not None:
        parts.append(f"up {duration(uptime)}")
    if (rss := memory.get("rss_bytes")) is not None:
        parts.append(f"{size(rss)} (peak {size(memory.get('rss_peak_bytes') or rss)})")
    if (worst := stall.get("max_ms")) is not None:
        parts.append(f"longest stall {worst:.0f} ms")
    return ", ".join(parts)
