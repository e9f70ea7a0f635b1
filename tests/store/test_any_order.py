"""Any order of events: the real store against a plain dict, with restarts and kills among them."""

import asyncio
import contextlib
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.store.support import (
    CANCELED,
    EXPIRED,
    INVALID,
    NOW,
    OVERLOADED,
    SUCCEEDED,
    Shop,
    line,
    new,
    open_shop,
    sighting,
)
from unhurried.clock import Ms, after
from unhurried.domain.batch import Batch, BatchId, UpstreamId
from unhurried.domain.request import Accepted
from unhurried.domain.states import FINAL_REQUEST_STATES, BatchState, RequestState
from unhurried.domain.submitting import No, Refused
from unhurried.store.errors import NotNow
from unhurried.store.records import RetryFilter
from unhurried.store.sqlite.erasing import ERASED
from unhurried.store.sqlite.retrying import RETRYABLE

T = TypeVar("T")
BODIES = [SUCCEEDED, INVALID, EXPIRED, CANCELED, OVERLOADED]


@dataclass
class There:
    """A batch as upstream has it, whether or not the store knows."""

    id: str
    batch: Batch
    members: list[str]
    bodies: dict[str, bytes] = field(default_factory=dict)
    """What upstream says of each member, the same at each reading."""


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "a.db"
        self.runner = asyncio.Runner()
        self.now = NOW
        self.shop: Shop = self.run(open_shop(self.path, self.now))
        self.keys: dict[str, str] = {}
        self.outcomes: dict[str, tuple[str, bytes] | None] = {}
        """Every accepted id, and its outcome once it was seen."""
        self.acked: set[str] = set()
        self.withdrawn: set[str] = set()
        """Deliveries that were canceled: their request was sent again or erased, or nobody came for them."""
        self.handed: list[str] = []
        self.newest: dict[str, int] = {}
        """The number of the newest delivery of each request; the first where it is missing."""
        self.erased: set[str] = set()
        self.forgotten: set[str] = set()
        self.upstream: dict[BatchId, There] = {}
        self.made = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    # callers

    @rule(count=st.integers(1, 6), priority=st.integers(-1, 1), key=st.sampled_from(["", "", "a", "b"]))
    def accept(self, count: int, priority: int, key: str) -> None:
        extra: dict[str, Any] = {"idempotency_key": key} if key else {}
        requests = [new(self.now, priority=priority, attempts_max=2, **extra) for _ in range(count)]
        for request, answer in zip(requests, self.run(self.shop.store.accept(requests)), strict=True):
            assert isinstance(answer, Accepted)
            if key and self.keys.get(key) in self.forgotten:
                assert answer.duplicate and answer.id == self.keys[key]
                continue  # its key outlives it
            if key:
                assert answer.id == self.keys.setdefault(key, request.id)
            else:
                assert answer.id == request.id
            self.outcomes.setdefault(answer.id, None)

    @precondition(lambda self: self.outcomes)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.run(self.shop.store.cancel(data.draw(st.sampled_from(sorted(self.outcomes))), "test", self.now))

    @rule(limit=st.integers(1, 5), lease_s=st.sampled_from([1, 100]))
    def pull(self, limit: int, lease_s: float) -> None:
        for handed in self.run(self.shop.pull(self.now, limit=limit, lease_s=lease_s)):
            assert handed.delivery_id is not None and handed.delivery_id not in self.acked
            self.handed.append(handed.delivery_id)
            self.saw(handed.request_id, str(handed.state), handed.body)

    @precondition(lambda self: self.handed)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        some = data.draw(st.lists(st.sampled_from(sorted(set(self.handed))), unique=True))
        acked = self.run(self.shop.store.ack(some, "ack", self.now))
        assert set(acked.confirmed) == set(some) - self.acked - self.withdrawn and not acked.unknown
        self.acked.update(acked.confirmed)

    # operators

    @precondition(lambda self: self.outcomes)
    @rule(data=st.data(), many=st.booleans())
    def retry(self, data: st.DataObject, many: bool) -> None:
        """One by its id, or all that a filter finds: what came to no good end is open again."""
        store = self.shop.store
        if many:
            wanted = RetryFilter(states=RETRYABLE, error_type=data.draw(st.sampled_from([None, "overloaded_error"])))
            found, _ = self.run(store.retry_candidates(wanted, None))
            self.run(store.retry_many(found, wait_s=None, default_s=9.0, actor="test", now=self.now))
            ids = [one.id for one in found]
        else:
            ids = [data.draw(st.sampled_from(sorted(self.outcomes)))]
            with contextlib.suppress(NotNow):
                self.run(store.retry(ids[0], wait_s=9.0, default_s=1.0, actor="test", now=self.now))
        for id in ids:
            before = self.outcomes[id]
            if before is None or self.run(self.shop.state(id)) in FINAL_REQUEST_STATES:
                continue
            assert RequestState(before[0]) in RETRYABLE and id not in self.erased
            self.outcomes[id] = None
            self.withdraw(id)
            self.newest[id] = self.newest.get(id, 1) + 1

    @precondition(lambda self: self.outcomes)
    @rule(data=st.data())
    def erase(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.outcomes)))
        with contextlib.suppress(NotNow):
            self.run(self.shop.store.erase(id, "test", self.now))
            self.erased.add(id)
            self.outcomes[id] = (str(self.run(self.shop.state(id))), ERASED)
            self.withdraw(id)
            self.keys = {key: holder for key, holder in self.keys.items() if holder != id}

    @rule(unread=st.booleans(), rows=st.integers(2, 9), rounds=st.integers(1, 3))
    def forget(self, unread: bool, rows: int, rounds: int) -> None:
        """Days pass, and the keeper does its rounds. What nobody has fetched stays, unless it was to be given up."""
        self.now = after(self.now, 2 * 86_400)
        for _ in range(rounds):
            position, more = 0, True
            while more:
                page = self.run(
                    self.shop.store.forget_outcomes(
                        position, rows, retention_s=86_400, unread_s=86_400 if unread else None, now=self.now
                    )
                )
                assert page.position > position or not page.more
                position, more = page.position, page.more
            self.run(self.shop.store.forget_batches(0, 1_000, self.now))
            self.run(self.shop.store.forget_events(0, 1_000, days=1, now=self.now))
        canceled = self.run(
            self.shop.ask(
                "select r.id, d.generation from deliveries d join requests r on r.seq = d.request_seq"
                " where d.state = 'canceled'"
            )
        )
        ended = self.acked | self.withdrawn
        if unread:
            self.withdrawn |= {f"{id}.{generation}" for id, generation in canceled}
        there = {row[0] for row in self.run(self.shop.ask("select id from requests"))}
        gone = self.outcomes.keys() - there
        assert unread or all(f"{id}.{self.newest.get(id, 1)}" in ended for id in gone)
        for id in gone:
            assert self.outcomes.pop(id) is not None or unread
        self.forgotten |= gone
        self.handed = [one for one in self.handed if one.rpartition(".")[0] in there]

    def withdraw(self, id: str) -> None:
        newest = f"{id}.{self.newest.get(id, 1)}"
        if newest not in self.acked:
            self.withdrawn.add(newest)

    # time and crashes

    @rule(seconds=st.sampled_from([0.5, 5, 40, 200]))
    def advance(self, seconds: float) -> None:
        self.now = after(self.now, seconds)
        self.run(self.shop.store.wake_waiting(self.now))
        self.run(self.shop.store.return_lapsed(self.now))

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        self.run(self.shop.close(clean=clean, now=self.now))
        self.shop = self.run(open_shop(self.path, self.now))

    # the flusher and the submission

    @rule(requests_max=st.integers(1, 7), chunk=st.integers(1, 4))
    def form(self, requests_max: int, chunk: int) -> None:
        if groups := self.run(self.shop.store.groups()):
            limit = min(requests_max, groups[0].requests_cap or requests_max)
            self.run(self.shop.form(self.now, requests_max=limit, chunk=chunk))

    @rule()
    def drop(self) -> None:
        if (batch := self.run(self.shop.store.next_formed())) is not None:
            self.run(self.shop.store.drop_last_member(batch.id, self.now))

    @rule(
        answer=st.sampled_from(["created", "created", "created", "unknown", "killed", *No]),
        exists=st.booleans(),
        place=st.integers(0, 7),
    )
    def submit(self, answer: str, exists: bool, place: int) -> None:
        if (formed := self.run(self.shop.store.next_formed())) is None:
            return
        batch = self.run(self.shop.store.record_submission(formed.id, self.now, self.now))
        if batch is None:
            return  # answered meanwhile, canceled by all, or as large as one in doubt
        if answer == "created" or (exists and answer in ("unknown", "killed")):
            self.made += 1
            members = self.run(self.shop.members(batch))
            self.upstream[batch.id] = There(f"u{self.made}", batch, members)
        if answer == "created":
            upstream_id = UpstreamId(self.upstream[batch.id].id)
            self.run(self.shop.store.record_created(batch.id, upstream_id, self.now, self.now))
        elif answer == "unknown":
            self.run(self.shop.store.record_unknown(batch.id, "timeout", self.now))
        elif answer == "killed":
            self.restart(clean=False)
        else:
            refused = Refused(kind=No(answer), detail="400", culprit=place)
            self.run(self.shop.store.record_refused(batch.id, refused, None, self.now))

    @rule(chunk=st.integers(1, 9))
    def release(self, chunk: int) -> None:
        self.run(self.shop.store.release_members(chunk, self.now))

    # the settlement

    @rule(proved=st.booleans(), late=st.booleans(), stranger=st.booleans())
    def settle(self, proved: bool, late: bool, stranger: bool) -> None:
        """The real one is adopted, or a stranger's and given back, or it is given up, rightly or not."""
        for doubt in self.run(self.shop.store.doubts())[:1]:
            batch, there = doubt.batch, self.upstream.get(doubt.batch.id)
            if stranger:
                self.made += 1
                seen = sighting(batch, f"s{self.made}", now=self.now)
                self.run(self.shop.store.adopt(batch.id, seen, proved=False, now=self.now))
                self.run(self.shop.store.record_seen(batch.id, seen, self.now))
                self.run(self.shop.store.disown(batch.id, "another nonce", stranger=True, now=self.now))
            elif there is None or late:
                self.run(self.shop.store.abandon(batch.id, "missing", self.now))
            else:
                seen = sighting(batch, there.id, now=self.now)
                self.run(self.shop.store.adopt(batch.id, seen, proved=proved, now=self.now))
                self.run(self.shop.store.prove(batch.id, self.now))

    @rule()
    def harvest(self) -> None:
        for doubt in self.run(self.shop.store.given_up(NOW)):
            if there := self.upstream.get(doubt.batch.id):
                seen = sighting(there.batch, there.id, now=self.now, ended=True)
                self.run(self.shop.store.harvest_twin(doubt.batch.id, seen, self.now))

    # the poller

    @rule(gone=st.sampled_from([False, False, False, True]))
    def end(self, gone: bool) -> None:
        for found in self.run(self.shop.store.open_batches()):
            if found.batch.state is BatchState.ENDED:
                continue
            there = self.upstream[found.batch.id]
            if gone:
                self.run(self.shop.store.record_gone(found.batch.id, "deleted", self.now))
            else:
                seen = sighting(there.batch, there.id, now=self.now, ended=True)
                self.run(self.shop.store.record_ended(found.batch.id, seen, self.now))
            return

    @rule(data=st.data(), finish=st.booleans())
    def collect(self, data: st.DataObject, finish: bool) -> None:
        """Some lines, in any order and some of them twice; and perhaps upstream has no more of them."""
        ended = [
            found.batch.id
            for found in self.run(self.shop.store.open_batches())
            if found.batch.state is BatchState.ENDED
        ]
        if not ended:
            return
        there = self.upstream[data.draw(st.sampled_from(ended))]
        some = data.draw(st.lists(st.sampled_from(there.members), max_size=9))
        for id in some:
            there.bodies.setdefault(id, data.draw(st.sampled_from(BODIES)))
        lines = [line(there.batch, id, there.bodies[id]) for id in some]
        stored = self.run(self.shop.store.store_results(there.batch.id, lines, self.now))
        assert not stored.foreign
        if finish:
            while not self.run(self.shop.store.finish_collecting(there.batch.id, 3, self.now)):
                pass

    # what must hold after each

    @invariant()
    def nothing_is_broken(self) -> None:
        """Neither an invariant of the store nor the table of transitions."""
        self.run(self.shop.check())

    @invariant()
    def nothing_is_lost_and_an_outcome_stays(self) -> None:
        rows = self.run(
            self.shop.ask("select r.id, r.state, s.body from requests r left join results s on s.request_seq = r.seq")
        )
        assert {row[0] for row in rows} == self.outcomes.keys()
        for id, state, body in rows:
            if state in FINAL_REQUEST_STATES:
                self.saw(id, state, body)
            else:
                assert self.outcomes[id] is None

    def saw(self, id: str, state: str, body: bytes) -> None:
        before = self.outcomes[id]
        assert before is None or before == (state, body)
        self.outcomes[id] = (state, body)

    def teardown(self) -> None:
        """Let everything end: then each accepted request has one outcome, and it is handed over until confirmed."""
        try:
            self.drain()
            self.nothing_is_broken()
            self.nothing_is_lost_and_an_outcome_stays()
            assert None not in self.outcomes.values()
            pulled = self.run(self.shop.pull(self.now, limit=10_000))
            ended = self.acked | self.withdrawn
            confirmed = {id for id in self.outcomes if f"{id}.{self.newest.get(id, 1)}" in ended}
            assert sorted(handed.request_id for handed in pulled) == sorted(self.outcomes.keys() - confirmed)
        finally:
            self.run(self.shop.close())
            self.runner.close()
            self.folder.cleanup()

    def drain(self) -> None:
        store = self.shop.store
        while store.open_requests() or self.run(store.open_batches()):
            self.now = Ms(self.now + 4_000_000)
            while self.run(store.wake_waiting(self.now)) == self.now:
                pass
            self.run(self.shop.release(self.now))
            self.settle(proved=True, late=False, stranger=False)
            self.form(100, 100)
            self.submit("created", exists=True, place=0)
            self.end(gone=False)
            for found in self.run(store.open_batches()):
                if found.batch.state is BatchState.ENDED:
                    there = self.upstream[found.batch.id]
                    lines = [line(there.batch, id, there.bodies.get(id, SUCCEEDED)) for id in there.members]
                    self.run(store.store_results(found.batch.id, lines, self.now))
                    while not self.run(store.finish_collecting(found.batch.id, 100, self.now)):
                        pass
        self.now = Ms(self.now + 4_000_000)
        while self.run(store.return_lapsed(self.now))[0]:
            pass


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.pytestmark = [pytest.mark.timeout(900)]  # type: ignore[attr-defined]  # a failure is made small first
TestAnyOrder.settings = settings(
    max_examples=12, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
