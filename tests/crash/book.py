"""What a client sent, what it was told and what it was handed: the oracle of the crash tests.

The simulator's answer begins with the first characters of the question, and its ledger has the digest of the params
of each request that was created. So both ways are checked: what went up is what came in, and what came back answers it.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

EXCERPT_CHARS: Final = 48
"""Of the question, in the answer of the simulator."""
SUCCEEDED: Final = frozenset({"succeeded"})


@dataclass(frozen=True)
class Sent:
    """One request as its client knows it. ``key`` is its idempotency key."""

    key: str
    queue: str
    text: str
    envelope: Mapping[str, Any] = field(default_factory=dict)

    @property
    def params(self) -> bytes:
        asked = {"model": "claude-haiku-4-5", "max_tokens": 40, "messages": [{"role": "user", "content": self.text}]}
        return json.dumps(asked).encode()

    def line(self) -> bytes:
        """An envelope of a bulk call. ``params`` is put in as it is: its bytes are what counts."""
        around = {"queue": self.queue, "idempotency_key": self.key, **self.envelope}
        return json.dumps(around).encode()[:-1] + b', "params": ' + self.params + b"}"


@dataclass
class Book:
    sent: dict[str, Sent] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    """By key, of what was acknowledged."""
    handed: dict[str, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))
    """By id of the request: its results by id of the delivery."""
    confirmed: set[str] = field(default_factory=set)
    """Deliveries whose confirmation was acknowledged: these must never come again."""
    unconfirmed: set[str] = field(default_factory=set)
    """Deliveries that were pulled or streamed, and whose confirmation was not acknowledged."""
    outcomes: dict[str, frozenset[str]] = field(default_factory=dict)
    """By key, the outcomes that are right; of all others, success."""
    generations: dict[str, int] = field(default_factory=dict)
    """By key, how many outcomes were handed over; of all others, one."""
    paid_twice: bool = False
    """Whether this story makes upstream give a batch up that exists: a late twin is paid for in vain."""
    forgotten: bool = False
    """Whether this story lets requests be deleted after their time."""
    erased: set[str] = field(default_factory=set)
    """The ids of those whose contents were erased."""
    created_twice: bool = False
    """Whether this story sends requests again that upstream has answered."""

    def write(self, queue: str, number: int, text: str = "", **envelope: Any) -> Sent:
        key = f"{queue}-{number}"
        sent = Sent(key, queue, f"{key} {text}", envelope)
        return self.sent.setdefault(key, sent)

    def acknowledged(self, sent: Sent, id: str, *, duplicate: bool) -> None:
        """The daemon has answered. Whatever was acknowledged before must be the same request, and known as such."""
        if sent.key in self.ids:
            assert (self.ids[sent.key], duplicate) == (id, True), f"{sent.key} was taken twice"
        assert id not in {other for key, other in self.ids.items() if key != sent.key}
        self.ids[sent.key] = id

    def take(self, request_id: str, delivery_id: str, result: Mapping[str, Any]) -> None:
        """A result was pulled or streamed, for the first time or again."""
        self.unconfirmed.add(delivery_id)
        self.pushed(request_id, delivery_id, result)

    def pushed(self, request_id: str, delivery_id: str, result: Mapping[str, Any]) -> None:
        """A result has arrived, for the first time or again."""
        assert delivery_id not in self.confirmed, f"{delivery_id} was handed out after its confirmation"
        before = self.handed[request_id].setdefault(delivery_id, result)
        assert before == result, f"{delivery_id} came with two contents"

    def wanted(self, queues: Iterable[str]) -> set[str]:
        """The ids of what was acknowledged in these queues."""
        of = set(queues)
        return {id for key, id in self.ids.items() if self.sent[key].queue in of}

    def check_results(self) -> None:
        """Every request that was acknowledged has come back, as often as it should, with the answer to its question."""
        assert self.ids.keys() == self.sent.keys(), "everything was acknowledged in the end"
        assert self.handed.keys() <= set(self.ids.values())
        for key, id in self.ids.items():
            results = self.handed.get(id, {})
            assert set(results) == {f"{id}.{n + 1}" for n in range(self.generations.get(key, 1))}, key
            for result in results.values():
                assert result["type"] in self.outcomes.get(key, SUCCEEDED), (key, result)
                if result["type"] == "succeeded":
                    [block] = result["message"]["content"]
                    assert block["text"].startswith(self.sent[key].text[:EXCERPT_CHARS] + " | "), key

    def check_ledger(self, ledger: Mapping[str, Any], created: Sequence[Mapping[str, Any]]) -> None:
        """What upstream knows of us: nothing but our requests with our params, each paid once."""
        keys = {id: key for key, id in self.ids.items()}
        paid = Counter[str]()
        for row in created:
            _, _, id = row["custom_id"].partition("-")
            assert row["params_sha256"] == hashlib.sha256(self.sent[keys[id]].params).hexdigest(), keys[id]
            paid[id] += bool(row["billed"])
        if not self.created_twice and not self.paid_twice:
            assert ledger["requests_created_more_than_once"]["by_custom_id"]["count"] == 0, ledger
        if not self.paid_twice:
            assert ledger["requests_billed_more_than_once"]["by_custom_id"]["count"] == 0, ledger
        for id, results in self.handed.items():
            for result in results.values():
                assert paid[id] or result["type"] != "succeeded", "an answer that nobody has billed"
