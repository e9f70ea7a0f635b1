"""Any order of events around deliveries: the real store against a plain dict, with restarts and kills among them."""

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.store.support import NOW, SUCCEEDED, Shop, line, new, open_shop
from unhurried.clock import Ms, after
from unhurried.domain import delivering
from unhurried.domain.delivering import Delivered, Gone, Misconfigured, Outcome, TryAgain
from unhurried.domain.states import DeliveryState
from unhurried.store.errors import NotRedeliverable
from unhurried.store.records import Claimed, DeliveryFilter

T = TypeVar("T")
SCHEDULE = (5, 30)
"""Short enough for a run of a few dozen steps to see a delivery die."""
LEASE_S = 40.0
PULL, WEBHOOKS = "pull:mine", ("webhook:app", "webhook:other")
NAMES = (PULL, *WEBHOOKS)
OUTCOMES: list[Outcome] = [
    *[Delivered(status=200)] * 4,
    TryAgain(detail="500", status=500),
    TryAgain(detail="500", status=500),
    TryAgain(detail="503", status=503, retry_after_s=20, throttled=True),
    Gone(detail="410"),
    Misconfigured(detail="no secret"),
]


@dataclass
class Model:
    """A delivery as it ought to be."""

    to: str
    state: str = "pending"
    attempts: int = 0
    lease_until: Ms = NOW


class AnyDelivery(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = mock.patch.object(delivering, "SCHEDULE_S", SCHEDULE)
        self.patch.start()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "a.db"
        self.runner = asyncio.Runner()
        self.now = NOW
        self.shop: Shop = self.run(open_shop(self.path, self.now))
        self.deliveries: dict[str, Model] = {}
        self.newest: dict[str, int] = {}
        """The number of the newest delivery of each request."""
        self.claimed: list[Claimed] = []
        """What this boot is sending."""
        self.paused: set[str] = set()
        self.made = 0
        self.urls = 0
        for name in WEBHOOKS:
            self.put(name)
        for name in NAMES:
            self.results(3, name)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    # results

    @rule(count=st.integers(1, 3), to=st.sampled_from(NAMES))
    def results(self, count: int, to: str) -> None:
        self.made += 1
        ids = self.run(self.shop.take(*(new(self.now, deliver_to=to) for _ in range(count))))
        batch = self.run(self.shop.end(f"u{self.made}", self.now))
        self.run(self.shop.store.store_results(batch.id, [line(batch, id) for id in ids], self.now))
        self.run(self.shop.store.finish_collecting(batch.id, 10, self.now))
        for id in ids:
            self.newest[id] = 1
            self.deliveries[f"{id}.1"] = Model(to)

    # callers

    @rule(limit=st.integers(1, 4))
    def pull(self, limit: int) -> None:
        handed = self.run(self.shop.store.pull(PULL, limit=limit, bytes_max=10**6, lease_s=LEASE_S, now=self.now))
        pending = [id for id, one in self.deliveries.items() if one.to == PULL and one.state == "pending"]
        assert len(handed) == min(limit, len(pending))
        for one in handed:
            self.leased(str(one.delivery_id))

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        """Of anything: a caller may confirm what it read by another way."""
        some = data.draw(st.lists(st.sampled_from(sorted(self.deliveries)), unique=True, max_size=3))
        acked = self.run(self.shop.store.ack(some, "ack", self.now))
        assert not acked.unknown
        assert set(acked.confirmed) == {id for id in some if self.deliveries[id].state in ("pending", "sending")}
        for id in acked.confirmed:
            self.deliveries[id].state = "delivered"

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        """A stream ends: what it was handed and did not confirm is given back."""
        leased = [id for id, one in self.deliveries.items() if one.to == PULL and one.state == "sending"]
        some = data.draw(st.lists(st.sampled_from(leased), unique=True)) if leased else []
        assert self.run(self.shop.store.still_out(sorted(self.deliveries))) == {
            id for id, one in self.deliveries.items() if one.state == "sending"
        }
        assert self.run(self.shop.store.give_back(some, self.now)) == len(some)
        for id in some:
            self.deliveries[id].state = "pending"

    # the dispatcher

    @rule(limit=st.integers(1, 6))
    def claim(self, limit: int) -> None:
        assert not {found.name for found in self.run(self.shop.store.open_webhooks())} & self.paused
        for name in WEBHOOKS:
            found = self.run(self.shop.store.destination(name))
            assert found is not None
            for claimed in self.run(self.shop.store.claim({found.id: limit}, LEASE_S, self.now)):
                assert name not in self.paused
                self.sending(claimed)

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES), go_on=st.booleans(), given_up=st.booleans())
    def record(self, data: st.DataObject, outcome: Outcome, go_on: bool, given_up: bool) -> None:
        claimed = self.claimed.pop(data.draw(st.integers(0, len(self.claimed) - 1)))
        following = self.run(
            self.shop.store.record_outcome(
                claimed,
                outcome,
                next_lease_s=LEASE_S if go_on else None,
                jitter=0.5,
                disable_after_s=60 if given_up else 10**9,
                now=self.now,
            )
        )
        model = self.deliveries[claimed.parcel.delivery_id]
        match outcome:
            case Delivered():
                if model.state in ("pending", "sending"):
                    model.state = "delivered"
            case TryAgain() if model.state == "sending":
                model.state = "dead" if model.attempts > len(SCHEDULE) else "pending"
            case Gone() | Misconfigured() if model.state == "sending":
                model.state = "pending"
                model.attempts -= 1
        found = self.run(self.shop.store.destination(claimed.destination))
        assert found is not None
        if isinstance(outcome, Gone) and (found.url, found.secrets) == (claimed.url, claimed.secrets):
            assert found.paused_at is not None
        if found.paused_at is not None and (isinstance(outcome, Gone) or given_up):
            self.paused.add(claimed.destination)
        if following is not None:
            assert go_on and isinstance(outcome, Delivered) and following.destination not in self.paused
            self.sending(following)

    def sending(self, claimed: Claimed) -> None:
        """It is newly ours, and it goes where its destination stands now."""
        model = self.deliveries[claimed.parcel.delivery_id]
        assert model.to == claimed.destination
        self.leased(claimed.parcel.delivery_id)
        assert claimed.parcel.attempt == model.attempts
        assert claimed.parcel.result == SUCCEEDED
        found = self.run(self.shop.store.destination(claimed.destination))
        assert found is not None and found.url == claimed.url
        self.claimed.append(claimed)

    def leased(self, id: str) -> None:
        model = self.deliveries[id]
        assert model.state == "pending"
        model.state, model.attempts, model.lease_until = "sending", model.attempts + 1, after(self.now, LEASE_S)

    # operators

    @rule(name=st.sampled_from(WEBHOOKS))
    def put(self, name: str) -> None:
        self.urls += 1
        self.run(self.shop.store.put_webhook(name, f"https://app.test/{self.urls}", ["env:A"], None, "test", self.now))

    @rule(name=st.sampled_from(WEBHOOKS))
    def pause(self, name: str) -> None:
        assert self.run(self.shop.store.pause_destination(name, "why", "test", self.now)) is (name not in self.paused)
        self.paused.add(name)

    @rule(name=st.sampled_from(WEBHOOKS))
    def resume(self, name: str) -> None:
        resumed = self.run(self.shop.store.resume_destination(name, "test", self.now))
        assert resumed or name not in self.paused
        self.paused.discard(name)

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data())
    def redeliver(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.deliveries)))
        try:
            made = self.run(self.shop.store.redeliver(id, "test", self.now))
        except NotRedeliverable:
            assert self.deliveries[id].state == "sending" or not self.is_newest(id)
            return
        assert made is not None and self.deliveries[id].state != "sending" and self.is_newest(id)
        assert made.id == self.replaced(id)

    @rule(to=st.sampled_from(NAMES), states=st.sets(st.sampled_from(["dead", "delivered", "pending"]), min_size=1))
    def redeliver_many(self, to: str, states: set[str]) -> None:
        wanted = DeliveryFilter(destination=to, states=frozenset(map(DeliveryState, states)))
        ids = [id for id, one in self.deliveries.items() if one.to == to and one.state in states and self.is_newest(id)]
        for dry_run in (True, False):
            step = self.run(self.shop.store.redeliver_many(wanted, None, "test", self.now, dry_run=dry_run))
            assert (step.deliveries, step.cursor) == (len(ids), None)
        for id in ids:
            self.replaced(id)

    def is_newest(self, id: str) -> bool:
        request, _, number = id.rpartition(".")
        return self.newest[request] == int(number)

    def replaced(self, id: str) -> str:
        """The id of the delivery that took the place of this one."""
        old = self.deliveries[id]
        if old.state in ("pending", "dead"):
            old.state = "canceled"
        request = id.rpartition(".")[0]
        self.newest[request] += 1
        made = f"{request}.{self.newest[request]}"
        self.deliveries[made] = Model(old.to)
        return made

    # time and crashes

    @rule(seconds=st.sampled_from([1, 6, 35, 700]))
    def advance(self, seconds: float) -> None:
        self.now = after(self.now, seconds)
        lapsed = [one for one in self.deliveries.values() if one.state == "sending" and one.lease_until <= self.now]
        assert self.run(self.shop.store.return_lapsed(self.now))[0] == len(lapsed)
        for one in lapsed:
            one.state = "pending"

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        self.run(self.shop.close(clean=clean, now=self.now))
        self.shop = self.run(open_shop(self.path, self.now))
        self.claimed.clear()
        for one in self.deliveries.values():
            if one.state == "sending":
                one.state = "pending"
                one.attempts -= one.to != PULL  # nobody knows whether it was made

    # what must hold after each

    @invariant()
    def everything_is_as_it_ought_to_be(self) -> None:
        self.run(self.shop.check())
        rows = self.run(
            self.shop.ask(
                "select r.id || '.' || d.generation, t.name, d.state, d.attempts from deliveries d"
                " join requests r on r.seq = d.request_seq join destinations t on t.id = d.destination_id"
            )
        )
        assert {row[0]: row[1:] for row in rows} == {
            id: (one.to, one.state, one.attempts) for id, one in self.deliveries.items()
        }
        for name in WEBHOOKS:
            found = self.run(self.shop.store.destination(name))
            assert found is not None and (found.paused_at is not None) is (name in self.paused)

    def teardown(self) -> None:
        """Every receiver works again: then everything arrives that is not dead, and nothing is left behind."""
        try:
            self.claimed.clear()
            for name in WEBHOOKS:
                self.resume(name)
            self.advance(10**5)
            while any(one.state == "pending" for one in self.deliveries.values()):
                self.pull(100)
                self.claim(100)
                self.ack_all()
                self.everything_is_as_it_ought_to_be()
            newest = [self.deliveries[f"{id}.{number}"].state for id, number in self.newest.items()]
            assert set(newest) <= {"delivered", "dead"}
        finally:
            self.run(self.shop.close())
            self.runner.close()
            self.folder.cleanup()
            self.patch.stop()

    def ack_all(self) -> None:
        leased = [id for id, one in self.deliveries.items() if one.state == "sending"]
        assert list(self.run(self.shop.store.ack(leased, "ack", self.now)).confirmed) == leased
        for id in leased:
            self.deliveries[id].state = "delivered"


TestAnyDelivery = AnyDelivery.TestCase
TestAnyDelivery.pytestmark = [pytest.mark.timeout(900)]  # type: ignore[attr-defined]  # a failure is made small first
TestAnyDelivery.settings = settings(
    max_examples=10, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
