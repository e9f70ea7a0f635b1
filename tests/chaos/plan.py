"""What happens in one world: decided by the seed alone (and the failpoints there are), before anything has begun.

Times are real seconds from the moment at which the daemon is first ready. What a plan does not decide is who wins a
race: threads and processes go at the pace of the machine.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from tests.chaos.faults import FAULTS, TWIN, UNCLEAR
from tests.chaos.timing import STOP_S_MAX
from unhurried.failpoints import POINTS

MARK: Final = "Zq7Prompt"
"""Stands in every prompt, and so in every answer: it must never stand in a log."""
TEXT_CHARS: Final = 48
"""So much of a prompt comes back in the simulator's answers; every text here is different within them."""
ARMED_S: Final = 2.0
"""So long a failpoint may keep its kill waiting; then it is done without."""
MODELS: Final = ("claude-haiku-4-5", "claude-sonnet-4-5")

Face = Literal["pull", "stream", "wait", "http", "unix"]
FACES: Final[Mapping[str, Face]] = {
    "labels": "pull", "content": "pull", "live": "stream", "asked": "wait", "hook": "http", "sock": "unix",
    "brief": "pull",
}  # fmt: skip
"""Queue → how its results are fetched. ``brief`` forgets what was delivered at once."""
BRIEF: Final = "brief"
Way = Literal["single", "single_cut", "bulk", "bulk_cut"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One request that a caller wants done once. ``key`` is custom_id and idempotency key alike."""

    key: str
    queue: str
    text: str
    params: str
    envelope: Mapping[str, Any]

    def line(self) -> bytes:
        """The whole envelope, ``params`` as they are."""
        head = json.dumps({"custom_id": self.key, "idempotency_key": self.key, "queue": self.queue, **self.envelope})
        return f'{head[:-1]}, "params": {self.params}}}'.encode()


@dataclass(frozen=True, kw_only=True)
class Upload:
    """``cut``: the share of the body after which its caller is gone, to send it all again. 1: it leaves unanswered."""

    at: float
    way: Way
    pieces: tuple[Piece, ...]
    cut: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SetFault:
    at: float
    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Life:
    """One life of the daemon. It ends at failpoint ``arm``, or as ``end`` says, ``lasts`` seconds after it was ready.

    ``works``: these seconds begin when its loops have upstream at hand. On a busy machine many a life would be too
    short to do anything.
    """

    lasts: float
    works: bool = True
    end: Literal["kill", "term", "term_kill"]
    arm: str = ""
    gap: float = 0.0
    """Between SIGTERM and SIGKILL."""
    stopped_at: float = -1.0
    stopped_for: float = 0.0
    """SIGSTOP, and SIGCONT so much later."""


@dataclass(frozen=True, kw_only=True)
class Act:
    """Something that an operator does, or somebody upstream. ``pick`` chooses among what is there then."""

    at: float
    what: str
    pick: float


ACTS: Final = (
    "cancel", "cancel", "cancel", "retry", "retry", "pause_queue", "resume_queue", "flush", "erase", "redeliver",
    "resume_account", "resume_account", "pause_destination", "resume_destination", "drain", "stranger", "stranger",
    "advance", "status",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    seed: int
    settings: Mapping[str, str]
    simulator: tuple[str, ...]
    uploads: tuple[Upload, ...]
    faults: tuple[SetFault, ...]
    lives: tuple[Life, ...]
    acts: tuple[Act, ...]
    receiver_seed: int
    forget: float
    """Share of the pulled results that are not acknowledged the first time."""
    twins: bool
    """Whether a create may turn up after the settlement time."""

    @property
    def pieces(self) -> dict[str, Piece]:
        return {piece.key: piece for upload in self.uploads for piece in upload.pieces}

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


def draw(seed: int, *, requests: int = 300, kills: int = 6) -> Plan:
    """The plan of ``seed``: about ``requests`` requests, ``kills`` lives that end before their time."""
    chance = random.Random(f"chaos {seed}")
    lives = tuple(_life(chance) for _ in range(kills))
    storm_s = sum(life.lasts for life in lives) + 0.3 * kills
    names = [name for name in FAULTS if name != TWIN]
    chance.shuffle(names)
    twins = chance.random() < 0.15
    names = names[: chance.randint(14, 28)] + chance.choices(UNCLEAR, k=4) + [TWIN] * twins
    faults = [
        SetFault(at=round(chance.uniform(0, storm_s * 0.75), 2), name=name, parameters=FAULTS[name](chance))
        for name in names
    ]
    size = chance.choice((8, 20, 20, 40, 80))
    return Plan(
        seed=seed,
        settings={
            "UNHURRIED_FLUSHER__BATCH_REQUESTS_MAX": str(size),
            "UNHURRIED_FLUSHER__LINGER_S": str(chance.choice((0.1, 0.3, 0.6))),
            "UNHURRIED_UPSTREAM__ANSWER_TIMEOUT_S": str(chance.choice((1.5, 5.0))),
            "UNHURRIED_DELIVERY__CONCURRENCY": str(chance.choice((1, 3, 8))),
        },
        simulator=_upstream(chance, seed, size),
        uploads=tuple(_uploads(chance, seed, requests, storm_s * 0.75)),
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
        lives=lives,
        acts=tuple(
            Act(at=round(chance.uniform(0.5, storm_s), 2), what=chance.choice(ACTS), pick=chance.random())
            for _ in range(chance.randint(6, 16))
        ),
        receiver_seed=chance.randrange(10**6),
        forget=chance.choice((0.0, 0.1, 0.3)),
        twins=twins,
    )


def _upstream(chance: random.Random, seed: int, size: int) -> tuple[str, ...]:
    """Options of the simulator."""
    arguments = ["--seed", str(seed), "--answer-tokens", "5-80", "--cancel-takes", "2"]
    arguments += ["--clock-offset", str(chance.choice((0, 0, 3_600, -3_600, 86_400 * 3, -86_400 * 3)))]
    for model in MODELS:
        arguments += ["--turnaround", f"{model}={chance.uniform(1, 10):.1f}"]
    if chance.random() < 0.25:
        arguments += ["--queue-limit", str(size * 3)]
    return tuple(arguments)


def _life(chance: random.Random) -> Life:
    lasts = round(chance.uniform(0.3, 2.2), 2)
    stopped = chance.random() < 0.2
    at, during = round(chance.uniform(0.0, lasts * 0.7), 2), round(chance.uniform(0.2, STOP_S_MAX), 2)
    halt = Life(lasts=lasts, end="kill", stopped_at=at if stopped else -1.0, stopped_for=during)
    kind = chance.random()
    if kind < 0.35:
        return replace(halt, works=chance.random() < 0.75)
    if kind < 0.60:  # any point, the k-th hit of all
        return replace(halt, lasts=ARMED_S, arm=f"*=kill@{int(2 ** chance.uniform(0, 9))}")
    if kind < 0.85:
        point = chance.choice([name for name in POINTS if not name.startswith(("migrate.", "stop."))])
        return replace(halt, lasts=ARMED_S, arm=f"{point}=kill@{chance.choice((1, 1, 2, 3, 5))}")
    if kind < 0.93:
        return Life(lasts=lasts, end="term_kill", gap=round(chance.uniform(0.0, 0.4), 2))
    point = chance.choice([name for name in POINTS if name.startswith("stop.")])
    return Life(lasts=lasts, end="term", arm=f"{point}=kill@1" if chance.random() < 0.7 else "")


def _uploads(chance: random.Random, seed: int, requests: int, until_s: float) -> list[Upload]:
    uploads: list[Upload] = []
    made = 0
    while made < requests:
        way: Way = chance.choice(("single", "single", "single", "single_cut", "bulk", "bulk_cut"))
        many = 1 if way.startswith("single") else chance.randint(2, max(3, requests // 6))
        queue = chance.choice(tuple(FACES))
        repeat = chance.randint(1, 8) if many == 1 else 1  # single callers come in small crowds
        for _ in range(repeat):
            pieces = tuple(_piece(chance, seed, queue, made + n) for n in range(many))
            made += many
            at, cut = round(chance.uniform(0, until_s), 2), round(chance.uniform(0.1, 1.0), 2)
            uploads.append(Upload(at=at, way=way, pieces=pieces, cut=cut if way == "bulk_cut" else 1.0))
    return sorted(uploads, key=lambda upload: upload.at)


def _piece(chance: random.Random, seed: int, queue: str, n: int) -> Piece:
    key = f"{queue}-{n:05d}"
    text = f"{MARK} {seed} {key} " + chance.choice(("", "ä€𝄞", 'a "quoted" \\ word', "line\nbreak\ttab"))
    assert len(text) <= TEXT_CHARS
    text += " and what follows is not echoed" * chance.choice((0, 0, 1, 20))
    content: Any = text if chance.random() < 0.7 else [{"type": "text", "text": text}]
    params: dict[str, Any] = {
        "model": chance.choice(MODELS),
        "max_tokens": chance.choice((64, 100)),
        "messages": [{"role": "user", "content": content}],
    }
    if chance.random() < 0.2:
        params = {"a_field_of_next_year": {"deep": [1, 2.50, None]}, **params}
    spaces = chance.choice(((",", ":"), (", ", ": "), (" , ", " : ")))
    envelope: dict[str, Any] = {}
    if chance.random() < 0.3:
        envelope["priority"] = chance.randint(-9, 9)
    if chance.random() < 0.3:
        envelope["max_wait"] = chance.choice((600, 7_200, 40_000))
    if chance.random() < 0.3:
        envelope["metadata"] = {"row": n}
    if FACES[queue] in ("http", "unix"):
        envelope["deliver_to"] = f"webhook:{queue}"
    shown = json.dumps(params, separators=spaces, ensure_ascii=chance.random() < 0.5)
    return Piece(key=key, queue=queue, text=text, params=shown, envelope=envelope)
