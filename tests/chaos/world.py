"""One world: a simulator, a daemon killed again and again, callers and receivers; then peace; then the judge."""

import contextlib
import json
import os
import random
import sqlite3
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx2
import msgspec

from tests.chaos.callers import Callers, later, thread
from tests.chaos.daemon import Daemon, until
from tests.chaos.evidence import Created, Evidence, Notes, Row, UpstreamBatch
from tests.chaos.operators import HOOKS, Operator, set_faults
from tests.chaos.oracle import Verdict, judge
from tests.chaos.plan import BRIEF, FACES, MARK, Plan, Upload
from tests.chaos.receivers import BadReceiver
from tests.chaos.timing import SETTINGS, SPEED
from tests.whole.nursery import Child
from tests.whole.receivers import SECRET, listening
from unhurried.client import Client, DaemonUnreachable, QueueError

KEY: Final = "sk-ant-chaos-0123456789-do-not-log"
QUIET_S: Final = 120.0
"""From the end of the faults until everything is done."""
ROUND_S: Final = 2.0
"""From one thing that an operator does to heal the world to the next."""
START_S: Final = 60.0
UPLOADERS: Final = 6
UNKILLED_S: Final = 20.0
"""Longest storm after the last kill: until everything is handed in."""
STRUCK_SHARE: Final = 0.7
"""And then, as long again, until so much of it was delivered: what upstream does to results, and receivers to
webhooks, comes late."""
LATE_S: Final = 10.0
"""Simulated: a batch that appears so long after its create is a late twin."""
FORBIDDEN: Final = (MARK.encode(), KEY.encode(), SECRET.encode(), b"Traceback")


@dataclass
class Story:
    """What became of one seed."""

    seed: int
    verdict: Verdict = field(default_factory=Verdict)
    kills: int = 0
    at_failpoints: int = 0
    stops: int = 0
    halts: int = 0
    acts: int = 0
    batches: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    """By name, how often each struck; what receivers of webhooks did is called ``receiver_…``."""
    seconds: float = 0.0
    peace_s: float = 0.0
    """From the end of the faults until everything was done."""


def run(plan: Plan, folder: Path) -> Story:
    """Let it happen in ``folder``, which keeps database, logs and plan."""
    (folder / "plan.json").write_text(plan.as_json())
    began = time.monotonic()
    notes = Notes()
    story = Story(plan.seed)
    with _simulator(plan, folder) as simulator:
        daemon = Daemon(folder, _environment(plan, folder, str(simulator.base_url)), notes)
        with _receivers(plan, daemon, notes) as receivers:
            try:
                story.peace_s = _happen(plan, daemon, simulator, receivers, notes)
            except Exception:  # noqa: BLE001  # the judge hears of it, and the folder is kept
                notes.complain(f"the world broke off: {traceback.format_exc()}\n{_tail(daemon.log)}")
            finally:
                if daemon.child is not None:
                    daemon.child.kill()
                    daemon.child.wait()
        story.faults = simulator.get("/simulator/faults").json()["struck"]
        for receiver in receivers.values():
            for does, times in receiver.done.items():
                if does != "ok":
                    story.faults[f"receiver_{does}"] = story.faults.get(f"receiver_{does}", 0) + times
        evidence = _evidence(plan, daemon, simulator, notes)
    story.verdict = judge(evidence)
    story.kills, story.at_failpoints, story.stops = daemon.kills, daemon.at_failpoints, daemon.stops
    story.halts, story.acts = daemon.halts, notes.acts.done
    story.batches = len({created.batch_id for created in evidence.created})
    story.seconds = time.monotonic() - began
    return story


def _happen(
    plan: Plan, daemon: Daemon, simulator: httpx2.Client, receivers: dict[str, BadReceiver], notes: Notes
) -> float:
    """How many seconds of peace it took until everything was done."""
    callers = Callers(daemon.socket, notes)
    operator = Operator(callers, simulator, notes)
    assert daemon.start(), "the first start is a plain one"
    _set_up(callers, receivers)
    began = time.monotonic()
    storm = [
        thread(notes, "faults", set_faults, simulator, plan.faults, began, operator.stop),
        thread(notes, "operator", operator.work, plan.acts, began),
    ]
    uploads = [
        thread(notes, f"upload {n}", _hand_in, callers, plan.uploads[n::UPLOADERS], began) for n in range(UPLOADERS)
    ]
    readers = _readers(plan, callers, notes)
    daemon.terminate()
    for life in plan.lives:
        daemon.live(life)
    assert daemon.start(), "the last start is a plain one"
    daemon.examine("after the last start")
    # What is left of the faults strikes a daemon that goes on, and it has work to do.
    until(lambda: not any(one.is_alive() for one in uploads), UNKILLED_S)
    enough = STRUCK_SHARE * len(plan.pieces)
    until(lambda: len({receipt.request_id for receipt in notes.in_hand()}) >= enough, UNKILLED_S)
    operator.stop.set()
    for one in storm:
        one.join(START_S)
    simulator.delete("/simulator/faults").raise_for_status()
    peace = time.monotonic()
    callers.healthy.set()
    for receiver in receivers.values():
        receiver.healthy.set()
    readers.append(thread(notes, "last reader", callers.pull, "pull:asked", 0.0, random.Random(plan.seed)))
    _quiet(daemon, callers, simulator, uploads, notes)
    peace_s = time.monotonic() - peace
    callers.stop.set()
    for one in (*uploads, *readers):
        one.join(START_S)
    daemon.examine("at the end")
    daemon.terminate()
    return peace_s


def _hand_in(callers: Callers, uploads: tuple[Upload, ...], began: float) -> None:
    with callers.client() as client:
        for upload in uploads:
            if later(upload.at, began, callers.stop):
                callers.hand_in(client, upload)


def _set_up(callers: Callers, receivers: dict[str, BadReceiver]) -> None:
    with callers.client() as client:
        for queue, receiver in receivers.items():
            client.put_webhook(f"webhook:{queue}", receiver.url, secrets=["env:CHAOS_SECRET"])
        client.set_queue(BRIEF, retention_days=0)
        for queue in FACES:
            client.set_queue(queue, priority=0)  # so that each is there to be paused


def _readers(plan: Plan, callers: Callers, notes: Notes) -> list[threading.Thread]:
    readers = []
    for queue, face in FACES.items():
        for n in range({"pull": 2, "stream": 1, "wait": 2}.get(face, 0)):
            chance = random.Random(f"reader {queue} {n} {plan.seed}")
            name, to = f"reader of {queue}", f"pull:{queue}"
            if face == "pull":
                readers.append(thread(notes, name, callers.pull, to, plan.forget, chance))
            elif face == "stream":
                readers.append(thread(notes, name, callers.stream, to, plan.forget, chance))
            else:
                readers.append(thread(notes, name, callers.ask, queue, chance))
    return readers


# Liveness after the faults stop


def _quiet(
    daemon: Daemon, callers: Callers, simulator: httpx2.Client, uploads: list[threading.Thread], notes: Notes
) -> None:
    """Everything is done within a bounded time, an operator having ended every pause."""
    deadline = time.monotonic() + QUIET_S
    healed_at = 0.0
    left: dict[str, Any] = {}
    with callers.client() as client:
        while time.monotonic() < deadline:
            child = daemon.child
            if child is None or child.poll() is not None:
                raise AssertionError("the daemon has died in peace")
            try:
                if time.monotonic() - healed_at > ROUND_S:
                    healed_at = time.monotonic()
                    _heal(client, notes)
                left = _left(client, simulator, uploads)
            except DaemonUnreachable as error:
                notes.complain(f"the daemon does not answer in peace: {error}")
            if left and not any(left.values()):
                return
            time.sleep(0.1)
    notes.complain(f"not done within {QUIET_S:g} s of peace: {json.dumps(left)[:500]}")


def _heal(client: Client, notes: Notes) -> None:
    """What an operator would do in the end: go on with everything, and not wait for the next attempt of a webhook."""
    client.undrain()
    client.resume_account()
    for queue in FACES:
        client.resume_queue(queue)
    for name in HOOKS:
        client.resume_destination(name)
        waiting, _ = client.deliveries(destination=name, states=["pending", "dead"], limit=1_000)
        for one in waiting:
            if one["attempts"]:
                notes.acts.redelivered.add(one["request_id"])
                with contextlib.suppress(QueueError):  # it is being sent just now, or was
                    client.redeliver(one["id"])
    client.flush()


def _left(client: Client, simulator: httpx2.Client, uploads: list[threading.Thread]) -> dict[str, Any]:
    """What is still to do, by kind; nothing of it is true when all is done."""
    creates = simulator.get("/simulator/ledger").json()["creates"]
    made = {create["batch_id"] for create in creates if create["batch_id"]}
    status, drained = client.status(), client.drained()
    known = {batch["upstream_id"] for batch in client.batches(limit=1_000)}
    shown = {batch["id"]: batch for batch in simulator.get("/simulator/batches").json()["data"]}
    unseen = [id for id in made - known if id not in shown or not shown[id]["deleted"]]
    return {
        "uploads": sum(one.is_alive() for one in uploads),
        "requests": sum(
            count
            for of_queue in status["requests"].values()
            for state, count in of_queue.items()
            if state in ("queued", "assigned", "submitted")
        ),
        "deliveries": status["deliveries_pending"],
        "handed_out": [one["name"] for one in status["destinations"] if one["deliveries"].get("sending")],
        "drained": {} if drained["empty"] else drained,
        "batches_that_nobody_knows": unseen,
    }


# What was seen


def _evidence(plan: Plan, daemon: Daemon, simulator: httpx2.Client, notes: Notes) -> Evidence:
    log = daemon.log.read_bytes()
    for word in FORBIDDEN:
        if word in log:
            notes.complain(f"{word.decode()!r} stands in the log: {_around(log, word)}")
    if notes.refused:
        notes.complain(f"acknowledged, and unknown to the daemon: {notes.refused[:5]}")
    created = [
        Created(
            request_id=line["custom_id"].partition("-")[2],
            batch_id=line["batch_id"],
            params_sha256=line["params_sha256"],
            billed=line["billed"],
        )
        for line in map(json.loads, simulator.get("/simulator/ledger/requests").text.splitlines())
    ]
    batches, lines = _upstream(simulator, _known(daemon.database))
    return Evidence(
        pieces=plan.pieces, answered=notes.answered, receipts=notes.receipts, created=created, batches=batches,
        lines=lines, rows=_rows(daemon.database), acts=notes.acts, complaints=notes.complaints,
    )  # fmt: skip


class _Line(msgspec.Struct):
    custom_id: str
    result: msgspec.Raw


def _upstream(simulator: httpx2.Client, known: set[str]) -> tuple[dict[str, UpstreamBatch], dict[str, set[bytes]]]:
    """Every batch of ours, and the results of those that can still be read, by request."""
    shown = {batch["id"]: batch for batch in simulator.get("/simulator/batches").json()["data"]}
    batches: dict[str, UpstreamBatch] = {}
    lines: dict[str, set[bytes]] = {}
    for create in simulator.get("/simulator/ledger").json()["creates"]:
        if (id := create["batch_id"]) is None:
            continue
        batch = shown.get(id)  # one that is still to appear is not shown
        batches[id] = UpstreamBatch(
            late=batch is None or _seconds_between(create["at"], batch["created_at"]) > LATE_S,
            deleted=batch is not None and batch["deleted"],
            known=id in known,
        )
        headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
        answer = simulator.get(f"/v1/messages/batches/{id}/results", headers=headers)
        if answer.status_code == 200:
            for text in answer.content.splitlines():
                line = msgspec.json.decode(text, type=_Line)
                lines.setdefault(line.custom_id.partition("-")[2], set()).add(bytes(line.result))
    return batches, lines


def _seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def _known(database: Path) -> set[str]:
    """Upstream's ids of the batches that the daemon has found."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return {id for (id,) in db.execute("select upstream_id from batches where upstream_id is not null")}


def _rows(database: Path) -> dict[str, Row]:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        found = db.execute(
            "select r.id, r.custom_id, r.state, r.generation, r.delivery, d.state, r.erased_at is not null,"
            " (select count(*) from attempts a where a.request_seq = r.seq and a.state = 'succeeded' and a.won = 0)"
            " from requests r left join deliveries d on d.request_seq = r.seq and d.generation = r.delivery"
        )
        return {
            id: Row(
                custom_id=custom_id, state=state, generation=generation, delivery=delivery, delivered=delivered,
                erased=bool(erased), waste=waste,
            )
            for id, custom_id, state, generation, delivery, delivered, erased, waste in found
        }  # fmt: skip


# Processes


def _environment(plan: Plan, folder: Path, upstream: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("UNHURRIED_", "ANTHROPIC_"))}
    return {
        **inherited,
        **SETTINGS,
        **plan.settings,
        "UNHURRIED_SOCKET": str(folder / "s.sock"),
        "UNHURRIED_DATABASE": str(folder / "u.db"),
        "UNHURRIED_UPSTREAM__BASE_URL": upstream,
        "UNHURRIED_UPSTREAM__API_KEY": KEY,
        "CHAOS_SECRET": SECRET,
    }


@contextmanager
def _simulator(plan: Plan, folder: Path) -> Iterator[httpx2.Client]:
    log = folder / "simulate.log"
    arguments = ["simulate", "--port", "0", "--speed", str(SPEED), "--api-key", KEY, *plan.simulator]
    process = Child(arguments, os.environ, log)
    try:
        assert until(lambda: log.exists() and b"\n" in log.read_bytes(), START_S, 0.02), "the simulator did not start"
        url = json.loads(log.read_text().splitlines()[0])["url"]
        with httpx2.Client(base_url=url, timeout=30) as http:
            yield http
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def _receivers(plan: Plan, daemon: Daemon, notes: Notes) -> Iterator[dict[str, BadReceiver]]:
    with contextlib.ExitStack() as stack:
        receivers = {}
        for queue, face in FACES.items():
            if face in ("http", "unix"):
                path = daemon.folder / f"{queue}.sock" if face == "unix" else None
                receiver = BadReceiver(notes, queue, plan.receiver_seed)
                stack.enter_context(listening(receiver, path=path))
                receivers[queue] = receiver
        yield receivers
        for receiver in receivers.values():
            receiver.healthy.set()


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text().splitlines()[-lines:])


def _around(log: bytes, word: bytes) -> str:
    at = log.index(word)
    return log[max(at - 150, 0) : at + 150].decode(errors="replace")
