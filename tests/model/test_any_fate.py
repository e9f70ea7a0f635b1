"""Any fate at all: the real store, the real loops and the real wire against the simulator, with kills at any failpoint,
restarts, faults of upstream, jumps of the clock and acts of callers and operators, in any order.

Two oracles judge: what a caller was told (an accepted request is kept, and its outcome stays), and the simulator's
ledger (nothing is sent twice, nothing that was paid for is dropped).

``UNHURRIED_TEST_MODEL_EXAMPLES`` and ``UNHURRIED_TEST_MODEL_STEPS`` make it long, and random; the short form is always
the same one.
"""

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import Awaitable, Container, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.loops.world import HandClock
from tests.model import phone
from tests.model.house import LOOPS, NOWHERE, House, all_at_once
from tests.store.support import CHANGING, NOW, new
from unhurried.clock import Ms, after, rfc3339
from unhurried.domain.delivering import Gone, Outcome, TryAgain
from unhurried.domain.request import Accepted, KeyConflict, NewRequest
from unhurried.domain.states import FINAL_REQUEST_STATES, TRANSITIONS, DeliveryState, RequestState
from unhurried.failpoints import ANY, POINTS
from unhurried.store.errors import NotNow, NotRedeliverable
from unhurried.store.records import DeliveryFilter
from unhurried.store.sqlite.erasing import ERASED
from unhurried.store.sqlite.retrying import RETRYABLE

T = TypeVar("T")
EXAMPLES = os.environ.get("UNHURRIED_TEST_MODEL_EXAMPLES")
STEPS = int(os.environ.get("UNHURRIED_TEST_MODEL_STEPS", "40"))

QUEUES = ("default", "night")
MODELS = ("claude-haiku-4-5", "claude-sonnet-5-5")
PULLS = tuple(f"pull:{queue}" for queue in QUEUES)
WEBHOOKS = ("webhook:app", "webhook:other")
HOSTS = ("app.test", "other.test")
KEY_DAYS = 30
JUMPS = (0, 0, 0, 0, -100, -20, -1, 1, 20, 100)
JUMP_MAX_S = 120.0
"""How far our clock may be from upstream's. A 404 is believed after ten minutes on ours: a clock that jumps by more
than that, within those of a lagging upstream, is beyond what is promised."""
TWIN_FROM_S = 45.0
"""A create that appears so late may be sent again: with the lag of lists, of 25 s, it is absent for the whole grace."""

FAULTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("create_then_drop", {}),
    ("create_then_drop", {}),
    ("create_then_500", {}),
    ("create_late", {"seconds": 15}),
    ("create_late", {"seconds": 400}),
    ("create_late", {"seconds": 2_000}),
    ("create_lost", {}),
    ("create_lost", {"after_bytes": 1}),
    ("create_lost_with_stranger", {}),
    ("create_500_with_stranger", {}),
    ("create_500", {}),
    ("create_529", {}),
    ("create_429", {"retry_after": 30}),
    ("create_413_html", {}),
    ("create_413_html", {"after_bytes": 1}),
    ("create_400_cut_body", {}),
    ("create_400_names_request", {"index": 1}),
    ("create_400_unexplained", {}),
    ("create_spend_limit", {}),
    ("create_401", {}),
    ("create_error", {"status": 409, "recorded": True}),
    ("create_error", {"status": 302}),
    ("errored_some", {"times": 1, "fraction": 0.5, "type": "api_error"}),
    ("errored_some", {"times": 1, "fraction": 0.5, "type": "invalid_request_error"}),
    ("expired_some", {"times": 1}),
    ("canceled_some", {"times": 1}),
    ("batch_deleted", {"seconds": 50}),
    ("batch_deleted", {"seconds": 110}),
    ("list_lag", {"seconds": 25}),
    ("retrieve_404_after_create", {"seconds": 120}),
    ("poll_429", {"retry_after": 5}),
    ("poll_500", {}),
    ("poll_drop", {}),
    ("results_404_after_end", {"seconds": 120}),
    ("results_error", {}),
    ("results_cut_mid_line", {}),
    ("results_cut_at_line_end", {}),
    ("results_duplicate_lines", {}),
    ("results_missing_lines", {}),
    ("results_shuffled", {}),
    ("results_blank_lines", {}),
    ("reset_connection", {"path": "batches"}),
)
SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=3)
PAUSES = st.sampled_from([0, 20, 61, 110])
REPLIES: tuple[Outcome, ...] = (
    TryAgain(detail="500", status=500),
    TryAgain(detail="503", status=503, retry_after_s=20, throttled=True),
    Gone(detail="410"),
)

OPERATORS = (
    "cancel", "cancel", "retry", "retry", "retry", "erase", "redeliver", "flush", "resume account", "pause queue",
    "pause webhook",
)  # fmt: skip

PICK = st.integers(0, 10_000)
"""Which of those that are there, whatever their number: what can be drawn never depends on what has happened."""
OUT_OF_REACH = ("start.", "migrate.", "ingest.", "bulk.", "results.", "stream.", "stop.")
"""What no step of a loop comes by."""
STARTING = ("start.locked", "start.opened", "start.epoch", "start.bound", "start.recovered")
HIT = st.sampled_from(
    [
        *[NOWHERE] * 30,
        *[f"{name}@{hit}" for name in POINTS if not name.startswith(OUT_OF_REACH) for hit in (1, 1, 2, 5)],
        *[f"{ANY}@{hit}" for hit in range(1, 41)],
    ]
)
"""Where the process is killed, if it comes by."""
START_HIT = st.sampled_from(
    [NOWHERE, NOWHERE, *[f"{name}@1" for name in STARTING], *[f"{ANY}@{hit}" for hit in range(1, 13)]]
)
LOOP = st.sampled_from(LOOPS)


@dataclass
class Facts:
    """What is known of an accepted request: told to its caller, or seen in the store once and final."""

    digest: bytes
    deliver_to: str
    state: str = "queued"
    body: bytes | None = None
    generation: int = 1
    delivered: bool = False
    """Nobody needs its newest delivery any more: it was confirmed or canceled."""
    retried: bool = False
    """An operator has asked for a retry. Killed on the way, it has happened or not."""
    cancel_asked: bool = False
    erase_asked: bool = False


class AnyFate(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = HandClock()
        self.upstream = phone.upstream()
        self.offset_s = 0.0
        self.facts: dict[str, Facts] = {}
        self.forgotten: set[str] = set()
        self.in_doubt: dict[str, NewRequest] = {}
        """Handed in, and killed before the answer: there or not."""
        self.keys: dict[str, tuple[str, str, bytes, Ms]] = {}
        """Key → queue, id of the request, digest, when."""
        self.handed: dict[str, bytes] = {}
        self.confirmed: set[str] = set()
        self.gone_retried: set[str] = set()
        self.made = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize(seed=st.integers(0, 1_000))
    def open(self, seed: int) -> None:
        self.other = phone.OtherSide(NOW, seed)
        self.house = House(Path(self.folder.name), self.clock, self.upstream)
        (Path(self.folder.name) / "0").mkdir()
        self.run(self.house.start())
        for name, host in zip(WEBHOOKS, HOSTS, strict=True):
            self.run(self.store.put_webhook(name, f"https://{host}/", ["env:A"], None, "test", NOW))

    @property
    def store(self) -> Any:
        return self.house.shop.store

    @property
    def now(self) -> Ms:
        return self.clock.now()

    def some_id(self, pick: int, states: Container[str] | None = None) -> str | None:
        ids = sorted(id for id, facts in self.facts.items() if states is None or facts.state in states)
        return ids[pick % len(ids)] if ids else None

    def act(self, work: Awaitable[T], hit: str = NOWHERE) -> T | None:
        """What an operator or a caller asks for. None too when it was killed on the way."""
        answers: list[T] = []

        async def answered() -> None:
            answers.append(await work)

        self.run(self.house.run(answered(), hit))
        return answers[0] if answers else None

    # callers

    @rule(
        count=st.integers(1, 6),
        queue=st.sampled_from(QUEUES),
        model=st.sampled_from(MODELS),
        deliver_to=st.sampled_from([None, None, *WEBHOOKS]),
        priority=st.integers(-1, 1),
        max_wait=st.sampled_from([None, 90, 10_000]),
        later_s=st.sampled_from([0, 0, 50]),
        hit=HIT,
    )
    def accept(
        self,
        count: int,
        queue: str,
        model: str,
        deliver_to: str | None,
        priority: int,
        max_wait: float | None,
        later_s: float,
        hit: str,
    ) -> None:
        fields: dict[str, Any] = {"queue": queue, "priority": priority, "deliver_to": deliver_to, "max_wait": max_wait}
        if later_s:
            fields["not_before"] = rfc3339(after(self.now, later_s))
        requests = []
        for _ in range(count):
            self.made += 1
            message = [{"role": "user", "content": f"Number {self.made}"}]
            requests.append(new(self.now, params={"model": model, "messages": message}, **fields))
        self.take(requests, hit)

    @rule(key=st.sampled_from(["a", "b"]), queue=st.sampled_from(QUEUES), other=st.booleans(), hit=HIT)
    def accept_with_key(self, key: str, queue: str, other: bool, hit: str) -> None:
        """The same key again brings the same request; with another body it is refused."""
        content = "other" if other else "same"
        message = [{"role": "user", "content": f"{key} {content}"}]
        request = new(self.now, params={"messages": message}, queue=queue, idempotency_key=f"{queue} {key}")
        self.take([request], hit)

    def take(self, requests: Sequence[NewRequest], hit: str) -> None:
        answers = self.act(self.store.accept(requests), hit)
        if answers is None:
            self.in_doubt.update((request.id, request) for request in requests)
            return
        for request, answer in zip(requests, answers, strict=True):
            key = request.idempotency_key
            held = self.keys.get(key) if key else None
            if held is not None:
                _, id, digest, since = held
                if self.now < after(since, KEY_DAYS * 86_400):
                    if digest == request.digest:
                        assert isinstance(answer, Accepted) and answer.duplicate and answer.id == id
                    else:
                        assert isinstance(answer, KeyConflict) and answer.id == id
                    continue
            if isinstance(answer, Accepted) and answer.duplicate:
                assert answer.id in self.in_doubt  # killed before its answer, and there all the same
                self.known(self.in_doubt.pop(answer.id))
                continue
            if isinstance(answer, KeyConflict):
                assert answer.id in self.in_doubt or held is not None
                continue
            assert answer.id == request.id
            self.known(request)

    def known(self, request: NewRequest) -> None:
        self.facts[request.id] = Facts(phone.digest(json.loads(request.params)), request.deliver_to)
        if request.idempotency_key is not None:
            self.keys[request.idempotency_key] = (request.queue, request.id, request.digest, request.accepted_at)

    def cancel(self, pick: int, hit: str) -> None:
        if (id := self.some_id(pick)) is not None:
            self.facts[id].cancel_asked = True
            self.act(self.store.cancel(id, "test", self.now), hit)

    @rule(to=st.sampled_from(PULLS), limit=st.integers(1, 5), lease_s=st.sampled_from([5, 100]), hit=HIT)
    def pull(self, to: str, limit: int, lease_s: float, hit: str) -> None:
        pulled = self.act(self.store.pull(to, limit=limit, bytes_max=10**6, lease_s=lease_s, now=self.now), hit)
        for handed in pulled or ():
            assert handed.delivery_id not in self.confirmed
            assert self.facts[handed.request_id].deliver_to == to
            self.handed[handed.delivery_id] = handed.body
            self.saw(handed.request_id, str(handed.state), handed.body)

    @rule(picks=st.lists(PICK, min_size=1, max_size=4), hit=HIT)
    def ack(self, picks: list[int], hit: str) -> None:
        there = sorted(self.handed)
        some = sorted({there[pick % len(there)] for pick in picks}) if there else []
        acked = self.act(self.store.ack(some, "ack", self.now), hit)
        if acked is not None:
            assert not set(acked.confirmed) & self.confirmed
            self.confirmed.update(acked.confirmed)

    # operators

    @rule(what=st.sampled_from(OPERATORS), pick=PICK, on=st.booleans(), hit=HIT)
    def operate(self, what: str, pick: int, on: bool, hit: str) -> None:
        match what:
            case "cancel":
                self.cancel(pick, hit)
            case "retry":
                self.retry(pick, hit)
            case "erase":
                self.erase(pick, hit)
            case "redeliver":
                self.redeliver(pick, hit)
            case "flush":
                self.flush(hit)
            case "resume account":
                self.resume_account(hit)
            case "pause queue":
                self.pause(QUEUES[pick % 2], on, hit)
            case _:
                self.pause_webhook(WEBHOOKS[pick % 2], on, hit)

    def retry(self, pick: int, hit: str) -> None:
        id = self.some_id(pick, RETRYABLE if pick % 4 else None)
        if id is None:
            return
        facts = self.facts[id]
        facts.retried = True
        if facts.body is not None and b"batch_gone" in facts.body:
            self.gone_retried.add(id)
        with contextlib.suppress(NotNow):
            self.act(self.store.retry(id, wait_s=500.0, default_s=1.0, actor="test", now=self.now), hit)
            return
        facts.retried = False

    def erase(self, pick: int, hit: str) -> None:
        id = self.some_id(pick, FINAL_REQUEST_STATES if pick % 4 else None)
        if id is None:
            return
        was, self.facts[id].erase_asked = self.facts[id].erase_asked, True
        with contextlib.suppress(NotNow):
            self.act(self.store.erase(id, "test", self.now), hit)
            return
        self.facts[id].erase_asked = was

    def pause(self, queue: str, on: bool, hit: str) -> None:
        if on:
            self.act(self.store.pause_queue(queue, "why", "test", self.now), hit)
        else:
            self.act(self.store.resume_queue(queue, "test", self.now), hit)

    def flush(self, hit: str) -> None:
        self.act(self.store.ask_flush(None, None, "test", self.now), hit)

    def resume_account(self, hit: str) -> None:
        self.act(self.store.resume_account("test", self.now), hit)

    def redeliver(self, pick: int, hit: str) -> None:
        id = self.some_id(pick, FINAL_REQUEST_STATES)
        if id is None:
            return
        newest = self.run(self.house.shop.ask("select delivery from requests where id = ?", id))
        if newest and newest[0][0]:
            with contextlib.suppress(NotRedeliverable):
                self.act(self.store.redeliver(f"{id}.{newest[0][0]}", "test", self.now), hit)

    def pause_webhook(self, to: str, on: bool, hit: str) -> None:
        if on:
            self.act(self.store.pause_destination(to, "why", "test", self.now), hit)
        else:
            self.act(self.store.resume_destination(to, "test", self.now), hit)

    # the world outside

    @rule(what=st.sampled_from(("receiver", "receiver", "stranger", "deleted", "well")), pick=PICK)
    def outside(self, what: str, pick: int) -> None:
        match what:
            case "receiver":
                self.receiver_fails(HOSTS[pick % 2], [REPLIES[pick % 3]] * (pick % 4))
            case "stranger":
                self.stranger(pick % 4 + 1)
            case "deleted":
                self.delete_batch(pick)
            case _:
                self.faults_end()

    @rule(faults=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=2))
    def faults(self, faults: list[tuple[str, dict[str, Any]]]) -> None:
        for fault in faults:
            self.other.fault(*fault)

    @rule(faults=st.lists(st.sampled_from(FAULTS), max_size=2), sizes=SIZES, seconds=PAUSES, hit=HIT)
    def send(self, faults: list[tuple[str, dict[str, Any]]], sizes: list[int], seconds: float, hit: str) -> None:
        """Some are accepted and sent while upstream behaves badly."""
        for size in sizes:
            self.accept(size, QUEUES[self.made % 2], MODELS[0], None, 0, None, 0, NOWHERE)
        self.faults(faults)
        self.flush(NOWHERE)
        self.turns(1, seconds, hit)

    def receiver_fails(self, host: str, replies: list[Outcome]) -> None:
        self.house.receivers.at[host].outcomes.extend(replies)

    def faults_end(self) -> None:
        self.other.world.faults.clear()

    def stranger(self, size: int) -> None:
        self.other.stranger(size)

    def delete_batch(self, pick: int) -> None:
        """Somebody does, in whatever state it is."""
        if batches := self.other.batches():
            batches[pick % len(batches)].deleted_at = self.other.time.now()

    @rule(seconds=st.sampled_from([12, 61, 110, 700, 4_000, 250_000]), jump_s=st.sampled_from(JUMPS))
    def advance(self, seconds: float, jump_s: float) -> None:
        self.pass_s(seconds)
        self.our_clock_jumps(jump_s)

    def our_clock_jumps(self, seconds: float) -> None:
        if abs(self.offset_s + seconds) <= JUMP_MAX_S:
            self.offset_s += seconds
            self.clock.pass_s(seconds)

    def pass_s(self, seconds: float) -> None:
        self.clock.pass_s(seconds)
        self.other.time.advance(seconds)

    # the daemon

    @rule(name=LOOP, hit=HIT)
    def step(self, name: str, hit: str) -> None:
        self.run(self.house.run(self.house.step(name), hit))

    @rule(rounds=st.integers(1, 6), seconds=PAUSES, hit=HIT)
    def turns(self, rounds: int, seconds: float, hit: str) -> None:
        """Every loop has a few steps, one after the other, and time passes between."""
        self.run(self.house.run(self.rounds(rounds, seconds), hit))

    async def rounds(self, rounds: int, seconds: float) -> None:
        for _ in range(rounds):
            for name in LOOPS:
                while await self.house.step(name) == 0:
                    await self.house.finished()
            await self.house.finished()
            self.pass_s(seconds)

    @rule(names=st.lists(LOOP, min_size=2, max_size=7), pick=PICK, hit=HIT)
    def at_once(self, names: list[str], pick: int, hit: str) -> None:
        """Steps run beside each other, of different loops, and a caller cancels at the same time."""
        works: list[Coroutine[Any, Any, Any]] = [self.house.step(name) for name in dict.fromkeys(names)]
        if (id := self.some_id(pick)) is not None and pick % 2:
            self.facts[id].cancel_asked = True
            works.append(self.store.cancel(id, "test", self.now))
        self.run(self.house.run(all_at_once(*works), hit))

    @rule(clean=st.booleans(), hit=START_HIT)
    def restart(self, clean: bool, hit: str) -> None:
        """In order, or by a kill; and perhaps another kill while it starts."""
        self.run(self.house.restart(hit) if clean else self.house.kill(hit))

    # what must hold after each

    @invariant()
    def nothing_is_broken(self) -> None:
        """Neither an invariant of the store nor the table of transitions."""
        complaints = self.run(self.store.complaints())
        assert not complaints, str(complaints)
        for table, changes in self.run(self.house.shop.changes()).items():
            assert changes <= {(old.value, new.value) for old, new in TRANSITIONS[CHANGING[table]]}, (table, changes)

    @invariant()
    def what_was_accepted_is_there_and_an_outcome_stays(self) -> None:
        rows = self.run(
            self.house.shop.ask(
                "select r.id, r.state, r.generation, s.body, d.state from requests r"
                " left join results s on s.request_seq = r.seq"
                " left join deliveries d on d.request_seq = r.seq and d.generation = r.delivery"
            )
        )
        there = {row[0] for row in rows}
        for id in [id for id in self.in_doubt if id in there]:
            self.known(self.in_doubt.pop(id))
        assert there <= self.facts.keys()
        for id in self.facts.keys() - there:
            facts = self.facts.pop(id)
            assert facts.delivered and RequestState(facts.state) in FINAL_REQUEST_STATES, f"{id} was lost: {facts}"
            self.forgotten.add(id)
            self.handed = {one: body for one, body in self.handed.items() if not one.startswith(id)}
        for id, state, generation, body, delivery in rows:
            facts = self.facts[id]
            if generation != facts.generation:
                assert facts.retried and generation == facts.generation + 1 and RequestState(facts.state) in RETRYABLE
                facts.generation, facts.state, facts.body, facts.retried = generation, "queued", None, False
            facts.delivered = RequestState(state) in FINAL_REQUEST_STATES and delivery in ("delivered", "canceled")
            self.saw(id, state, body)

    def saw(self, id: str, state: str, body: bytes | None) -> None:
        facts = self.facts[id]
        if RequestState(facts.state) in FINAL_REQUEST_STATES:
            assert state == facts.state, f"{id} was {facts.state} and is {state}"
            erased = facts.erase_asked and body == ERASED
            assert body == facts.body or erased
        elif RequestState(state) in FINAL_REQUEST_STATES and body != ERASED:
            self.is_explained(id, state, body or b"")
        if facts.erase_asked and body == ERASED:
            self.keys = {key: held for key, held in self.keys.items() if held[1] != id}
        facts.state, facts.body = state, body

    def is_explained(self, id: str, state: str, body: bytes) -> None:
        """An outcome is what upstream has said, or one of ours with its reason."""
        facts, said = self.facts[id], self.other.said(id)
        match state:
            case "succeeded" | "expired":
                assert state in said
            case "canceled":
                assert facts.cancel_asked or state in said
            case _:
                kind = json.loads(body)["error"]["error"]["type"]
                assert kind != "missing_result"
                if kind == "batch_gone":
                    assert any(map(self.other.is_gone, self.batches_of(id))), f"{id} is not gone"

    def batches_of(self, id: str) -> list[Any]:
        return [
            batch
            for batch in self.other.batches()
            if any(item.custom_id.partition("-")[2] == id for item in batch.items)
        ]

    @invariant()
    def what_was_delivered_has_arrived(self) -> None:
        rows = self.run(
            self.house.shop.ask(
                "select r.id || '.' || d.generation, t.kind, d.state, d.confirmed_by from deliveries d"
                " join requests r on r.seq = d.request_seq join destinations t on t.id = d.destination_id"
                " where d.state = 'delivered' or t.kind = 'pull'"
            )
        )
        arrived = {id for receiver in self.house.receivers.at.values() for id in receiver.ids}
        for id, kind, state, by in rows:
            if state == "delivered" and kind == "webhook" and by == "webhook":
                assert id in arrived
            elif state == "delivered":
                assert id in self.handed
            else:
                assert id not in self.confirmed
        for receiver in self.house.receivers.at.values():
            for parcel in receiver.got:
                facts = self.facts.get(parcel.delivery_id.rpartition(".")[0])
                assert (
                    facts is None
                    or facts.body is None
                    or parcel.result in (facts.body, b"")
                    or (facts.erase_asked or facts.generation > 1)
                )

    def twins(self) -> set[str]:
        """Batches that turned up too late to be found: their members may have gone another way meanwhile."""
        return {
            create.batch.id
            for create in self.other.world.ledger.creates
            if create.batch is not None and create.batch.created_at - create.at >= TWIN_FROM_S
        }

    @invariant()
    def nothing_is_sent_or_paid_for_twice(self) -> None:
        """Apart from a create that turned up too late to be found, or that was deleted before it could be."""
        now, twins = self.other.time.now(), self.twins()
        known = {row[0] for row in self.run(self.house.shop.ask("select upstream_id from batches"))}
        live: set[str] = set()
        for batch in self.other.batches():
            for item in batch.items:
                id = item.custom_id.partition("-")[2]
                if id in self.facts:
                    assert item.params_sha256 == self.facts[id].digest
                if batch.id not in twins and not batch.is_deleted(now) and now < batch.ends_at:
                    assert id not in live, f"{id} is in two batches"
                    live.add(id)
        for id, batches in self.other.paid_for().items():
            counted = [batch for batch in batches if batch.id not in twins]
            if id in self.gone_retried or any(self.other.is_gone(batch) and batch.id not in known for batch in counted):
                continue
            assert len(counted) <= 1, f"{id} was paid for {len(counted)} times"

    # the end

    def teardown(self) -> None:
        """All goes well from here on: then everything ends, and arrives."""
        try:
            if hasattr(self, "house"):
                self.drain()
        finally:
            if hasattr(self, "house"):
                self.run(self.house.close())
            self.runner.close()
            self.folder.cleanup()

    def drain(self) -> None:
        self.other.world.faults.clear()
        for receiver in self.house.receivers.at.values():
            receiver.outcomes.clear()
        for queue in QUEUES:
            self.pause(queue, on=False, hit=NOWHERE)
        for to in WEBHOOKS:
            self.pause_webhook(to, on=False, hit=NOWHERE)
        for number in range(300):
            self.run(self.rounds_without_keeper())
            for to in PULLS:
                self.pull(to, 100, 5, hit=NOWHERE)
            self.run(self.store.ack(sorted(self.handed), "ack", self.now))
            self.confirmed.update(self.run(self.delivered()))
            if self.is_quiet():
                break
            self.pass_s(20 if number < 200 else 4_000)
        else:
            raise AssertionError(f"something is left: {self.run(self.left())}")
        self.nothing_is_broken()
        self.what_was_accepted_is_there_and_an_outcome_stays()
        self.what_was_delivered_has_arrived()
        self.nothing_is_sent_or_paid_for_twice()
        self.all_that_was_paid_for_was_handed_back()

    async def rounds_without_keeper(self) -> None:
        for name in LOOPS[:-1]:
            while await self.house.step(name) == 0:
                await self.house.finished()
        await self.house.finished()
        dead = DeliveryFilter(states=frozenset({DeliveryState.DEAD}))
        await self.store.redeliver_many(dead, None, "test", self.now, dry_run=False)

    async def delivered(self) -> set[str]:
        rows = await self.house.shop.ask(
            "select r.id || '.' || d.generation from deliveries d join requests r on r.seq = d.request_seq"
            " where d.state = 'delivered'"
        )
        return {row[0] for row in rows} & self.handed.keys()

    async def left(self) -> list[tuple[Any, ...]]:
        return await self.house.shop.ask(
            "select 'request', id, state, null from requests where finished_at is null"
            " union all select 'batch', id, state, detail from batches"
            " where finished_at is null or members_open > 0"
            " union all select 'delivery', r.id, d.state, d.last_error from deliveries d"
            " join requests r on r.seq = d.request_seq where d.state in ('pending', 'sending', 'dead')"
        )

    def is_quiet(self) -> bool:
        return not self.run(self.left())

    def all_that_was_paid_for_was_handed_back(self) -> None:
        self.what_was_accepted_is_there_and_an_outcome_stays()
        for id, facts in self.facts.items():
            assert facts.delivered, f"{id} was not handed over: {facts}"
        twins = self.twins()
        for id in self.other.paid_for().keys() & self.facts.keys():
            batches = self.batches_of(id)
            if not any(self.other.is_gone(batch) or batch.id in twins for batch in batches):
                assert self.facts[id].state == "succeeded", f"{id} was paid for"


@pytest.mark.parametrize("hit", [NOWHERE, "submission.answered@1"])
def test_every_fault_of_upstream_once(hit: str) -> None:
    """The least that any fate must get through: each fault by itself, with and without a kill at that moment."""
    fate = AnyFate()
    fate.open(seed=1)
    try:
        for number, fault in enumerate(FAULTS):
            fate.send([fault], sizes=[2 + number % 3], seconds=61, hit=hit)
            fate.turns(3, seconds=61, hit=NOWHERE)
            fate.faults_end()
            fate.what_was_accepted_is_there_and_an_outcome_stays()
            fate.nothing_is_sent_or_paid_for_twice()
        fate.nothing_is_broken()
    finally:
        fate.teardown()


TestAnyFate = AnyFate.TestCase
TestAnyFate.pytestmark = [pytest.mark.timeout(100_000 if EXAMPLES else 600)]  # type: ignore[attr-defined]
TestAnyFate.settings = settings(
    max_examples=int(EXAMPLES or "6"),
    stateful_step_count=STEPS,
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
