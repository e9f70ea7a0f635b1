"""An operator who does things at the wrong moment, and strangers upstream."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import httpx2
import msgspec

from tests.chaos.callers import Callers, later
from tests.chaos.evidence import Notes, Receipt
from tests.chaos.faults import TWIN
from tests.chaos.plan import BRIEF, FACES, Act, SetFault
from unhurried.client import Client, DaemonUnreachable, QueueError

JUMP_S: Final = 3_600.0
PAUSES_S: Final = 1.5
NOT_AGAIN: Final = frozenset({"batch_gone", "missing_result"})
"""May have been paid for: sending these again is an order to pay again, which is another question."""
HOOKS: Final = tuple(f"webhook:{queue}" for queue, face in FACES.items() if face in ("http", "unix"))
T = TypeVar("T")


class Operator:
    """Carries out the acts of a plan. A daemon that is down just now makes an act come to nothing."""

    def __init__(self, callers: Callers, simulator: httpx2.Client, notes: Notes) -> None:
        self._callers = callers
        self._simulator = simulator
        self._notes = notes
        self.stop = threading.Event()

    def work(self, acts: tuple[Act, ...], began: float) -> None:
        with self._callers.client() as client:
            for act in acts:
                if not later(act.at, began, self.stop):
                    return
                try:
                    ACTS[act.what](self, client, act.pick)
                except DaemonUnreachable:
                    continue
                except QueueError as error:
                    if error.status >= 500 and error.status not in (503, 507):
                        self._notes.complain(f"{act.what} was answered by {error.status}: {error}")
                else:
                    self._notes.acts.done += 1

    def _cancel(self, client: Client, pick: float) -> None:
        if (id := chosen(self._notes.ids(), pick)) is not None:
            self._notes.acts.canceled.add(id)
            client.cancel(id)

    def _retry(self, client: Client, pick: float) -> None:
        failed = [one.request_id for one in self._notes.in_hand() if _worth_another(one)]
        if (id := chosen(failed, pick)) is not None:
            self._notes.acts.retried.add(id)
            client.retry(id)

    def _erase(self, client: Client, pick: float) -> None:
        if (one := chosen(self._notes.in_hand(), pick)) is not None:
            self._notes.acts.erased.add(one.request_id)
            client.erase(one.request_id)

    def _redeliver(self, client: Client, pick: float) -> None:
        known = [one for one in self._notes.in_hand() if one.delivery_id is not None]
        if (one := chosen(known, pick)) is not None and one.delivery_id is not None:
            self._notes.acts.redelivered.add(one.request_id)
            client.redeliver(one.delivery_id)

    def _pause_queue(self, client: Client, pick: float) -> None:
        if (queue := chosen(list(FACES), pick)) is not None:
            client.pause_queue(queue, "chaos")

    def _resume_queue(self, client: Client, _pick: float) -> None:
        for queue in FACES:
            client.resume_queue(queue)

    def _flush(self, client: Client, _pick: float) -> None:
        client.flush()

    def _resume_account(self, client: Client, _pick: float) -> None:
        client.resume_account()

    def _pause_destination(self, client: Client, pick: float) -> None:
        if (name := chosen(list(HOOKS), pick)) is not None:
            client.pause_destination(name, "chaos")

    def _resume_destination(self, client: Client, _pick: float) -> None:
        for name in HOOKS:
            client.resume_destination(name)

    def _drain(self, client: Client, _pick: float) -> None:
        client.drain()
        self.stop.wait(PAUSES_S / 3)
        client.undrain()

    def _status(self, client: Client, _pick: float) -> None:
        """What an operator looks at must answer whatever goes on."""
        client.status()
        client.health()
        client.batches(limit=50)
        client.requests(limit=50)
        client.events(limit=50)

    def _stranger(self, _client: Client, pick: float) -> None:
        """As many requests as some create of ours: nothing in the list tells the two apart."""
        creates = self._simulator.get("/simulator/ledger").json()["creates"]
        total = chosen([create["total"] for create in creates if create["total"]], pick)
        if total is not None:
            self._simulator.post("/simulator/batches", json={"total": total, "turnaround_s": 8 * pick})

    def _advance(self, _client: Client, _pick: float) -> None:
        self._simulator.post("/simulator/advance", json={"seconds": JUMP_S})


ACTS: Final[Mapping[str, Callable[[Operator, Client, float], None]]] = {
    "cancel": Operator._cancel,
    "retry": Operator._retry,
    "erase": Operator._erase,
    "redeliver": Operator._redeliver,
    "pause_queue": Operator._pause_queue,
    "resume_queue": Operator._resume_queue,
    "flush": Operator._flush,
    "resume_account": Operator._resume_account,
    "pause_destination": Operator._pause_destination,
    "resume_destination": Operator._resume_destination,
    "drain": Operator._drain,
    "status": Operator._status,
    "stranger": Operator._stranger,
    "advance": Operator._advance,
}


def _worth_another(one: Receipt) -> bool:
    """Whoever waits is not told the number of a delivery, so their requests stay what they are."""
    if one.state == "succeeded" or one.delivery_id is None:
        return False
    result: dict[str, Any] = msgspec.json.decode(one.result)
    kind = result["error"]["error"]["type"] if one.state == "errored" else ""
    return kind not in NOT_AGAIN and one.custom_id is not None and not one.custom_id.startswith(f"{BRIEF}-")


def chosen(among: list[T], pick: float) -> T | None:
    return among[int(pick * len(among))] if among else None


def set_faults(simulator: httpx2.Client, faults: tuple[SetFault, ...], began: float, stop: threading.Event) -> None:
    """Each at its time; they stay set until they are used up or the storm is over."""
    for fault in faults:
        if not later(fault.at, began, stop):
            return
        name = "create_late" if fault.name == TWIN else fault.name
        simulator.put(f"/simulator/faults/{name}", json=dict(fault.parameters)).raise_for_status()
