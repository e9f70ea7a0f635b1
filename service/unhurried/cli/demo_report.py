"""What a demo shows at its end: batches, the ledger of the other side, the daemon's own numbers, what to type next."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unhurried.cli.output import duration, fields, size, table

if TYPE_CHECKING:
    from unhurried.cli.demo import Place
    from unhurried.cli.transfer import Handed


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that is known at the end. Times in seconds; ``turnaround_s`` by the simulator's clock."""

    file: str
    requests: int
    refused: int
    refusals: Sequence[str]
    outcomes: Mapping[str, int]
    batches: Sequence[Mapping[str, Any]]
    created_upstream: int
    """Requests in all creates that made a batch."""
    created_more_than_once: int
    creates: int
    cost_usd: float
    start_s: float
    wall_s: float
    memory: Mapping[str, Any]
    stall: Mapping[str, Any]

    @property
    def handed_back(self) -> int:
        return sum(self.outcomes.values())

    @property
    def proved(self) -> bool:
        """Every accepted request came back, and upstream's side saw each exactly once."""
        accepted = self.requests - self.refused
        return self.handed_back == accepted == self.created_upstream and self.created_more_than_once == 0

    @property
    def all_succeeded(self) -> bool:
        return self.refused == 0 and self.outcomes.get("succeeded", 0) == self.requests

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "handed_back": self.handed_back, "proved": self.proved}


def ledger(socket: Path) -> dict[str, Any]:
    """What the simulator was asked, by its own account (docs/simulator.md)."""
    import httpx2

    transport = httpx2.HTTPTransport(uds=str(socket))
    with httpx2.Client(transport=transport, base_url="http://simulator", timeout=60) as http:
        answer: dict[str, Any] = http.get("/simulator/ledger").raise_for_status().json()
        return answer


def report_of(
    *,
    name: str,
    lines: int,
    handed: "Handed",
    kinds: Mapping[str, int],
    batches: Sequence[Mapping[str, Any]],
    status: Mapping[str, Any],
    ledger: Mapping[str, Any],
    speed: float,
    start_s: float,
    wall_s: float,
) -> Report:
    process = status.get("daemon") or {}
    return Report(
        file=name,
        requests=lines,
        refused=handed.refused,
        refusals=handed.refusals,
        outcomes=kinds,
        batches=[_batch(batch, speed) for batch in reversed(batches)],
        created_upstream=ledger["totals"]["requests"],
        created_more_than_once=ledger["requests_created_more_than_once"]["by_custom_id"]["count"],
        creates=ledger["totals"]["creates"],
        cost_usd=ledger["billed"]["cost_usd"],
        start_s=start_s,
        wall_s=wall_s,
        memory=process.get("memory") or {},
        stall=process.get("stall") or {},
    )


def show(report: Report, place: "Place", *, keep: bool) -> None:
    for refusal in report.refusals:
        print(f"refused: {refusal}")
    columns = ("model", "requests", "state", "upstream id", "took upstream", "sent because")
    rows = [(b["model"], b["requests"], b["state"], b["upstream_id"], _took(b), b["why"]) for b in report.batches]
    print()
    table(columns, rows, right=("requests",))
    print()
    fields(
        [
            ("handed back", f"{report.handed_back:,} of {report.requests:,}: {_kinds(report.outcomes)}"),
            ("paid once", _proof(report)),
            ("bill", f"${report.cost_usd:,.4f}; in real time ${2 * report.cost_usd:,.4f} (simulated, not charged)"),
            ("time", f"{report.wall_s:.1f} s from first line to last result, after {report.start_s:.1f} s to start"),
            ("daemon", _daemon(report)),
            ("folder", f"{place.folder} (yours to delete)"),
        ]
    )
    print("\nnext")
    for command, what in _next(place, keep):
        print(f"  {command}\n      {what}")


def _next(place: "Place", keep: bool) -> list[tuple[str, str]]:
    unhurried = _how_called()
    after = [
        (
            shlex.join(["sqlite3", "-readonly", str(place.database), "select * from v_batches"]),
            "the database, made to be read: v_requests, v_events …",
        ),
        (f"{unhurried} doctor --database {place.database}", "check every promise on it"),
        (f"head -n 1 {place.results}", "the results, in the form of upstream's result lines"),
    ]
    if keep:
        return [(f"{unhurried} status --socket {place.socket}", "queues, batches, the daemon itself"), *after]
    return [*after, (f"{unhurried} demo --keep", "the same, with the daemon left running to look at")]


def _how_called() -> str:
    return "unhurried" if Path(sys.argv[0]).name == "unhurried" else shlex.join([sys.executable, "-m", "unhurried"])


def _batch(batch: Mapping[str, Any], speed: float) -> dict[str, Any]:
    created, ended = batch["upstream_created_at"], batch["upstream_ended_at"]
    took_s = None
    if created and ended:
        took_s = (datetime.fromisoformat(ended) - datetime.fromisoformat(created)).total_seconds()
    return {
        "id": batch["id"],
        "model": batch["model"],
        "requests": batch["requests"],
        "state": batch["state"],
        "upstream_id": batch["upstream_id"],
        "why": batch["why"],
        "turnaround_s": took_s,
        "turnaround_real_s": took_s / speed if took_s is not None else None,
    }


def _took(batch: Mapping[str, Any]) -> str:
    if batch["turnaround_s"] is None:
        return ""
    return f"{duration(batch['turnaround_s'])} simulated, {duration(batch['turnaround_real_s'])} here"


def _kinds(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(outcomes.items())) or "none"


def _proof(report: Report) -> str:
    return (
        f"the simulator's ledger has {report.creates:,} creates with {report.created_upstream:,} requests,"
        f" {report.created_more_than_once or 'none'} created more than once"
    )


def _daemon(report: Report) -> str:
    memory, stall = report.memory, report.stall
    parts = []
    if peak := memory.get("rss_peak_bytes"):
        ready = memory.get("rss_ready_bytes")
        parts.append(f"peak memory {size(peak)}" + (f" ({size(ready)} when ready)" if ready else ""))
    if (worst := stall.get("max_ms")) is not None:
        parts.append(f"longest stall {worst:.0f} ms, p99 {stall.get('p99_ms', 0):.1f} ms")
    return "; ".join(parts)
