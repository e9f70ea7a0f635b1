"""Applications that use the daemon: they are cut off, forget, come again, and write down what they have in hand."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import httpx2
import msgspec

from tests.chaos.evidence import Notes, Receipt
from tests.chaos.plan import Upload
from unhurried.client import Client, DaemonUnreachable, QueueError, Result

PAUSE_S: Final = 0.05
ANSWER_S: Final = 8.0
COME_AGAIN: Final = frozenset({429, 503, 507})
"""What the daemon says when the same call may succeed later."""
WINDOW: Final = 20


class Callers:
    """Every thread that plays an application. ``stop`` ends those that would go on for ever."""

    def __init__(self, daemon_socket: Path, notes: Notes) -> None:
        self._socket = daemon_socket
        self._notes = notes
        self.stop = threading.Event()
        self.healthy = threading.Event()
        """From here on nobody forgets anything."""

    def client(self) -> Client:
        """One for each thread, and to be kept: making one costs more than a call."""
        return Client(self._socket, timeout_s=ANSWER_S)

    def sleep(self, seconds: float) -> None:
        self.stop.wait(seconds)

    # Handing in

    def hand_in(self, client: Client, upload: Upload) -> None:
        """Until the daemon has answered for each piece; cut off once, where the plan says so."""
        if upload.way in ("single_cut", "bulk_cut"):
            self._cut_off(upload)
        while not self.stop.is_set():
            try:
                self._once(client, upload)
            except DaemonUnreachable:
                self.sleep(PAUSE_S)
            except QueueError as error:
                if error.status not in COME_AGAIN:
                    raise
                self.sleep(PAUSE_S)
            else:
                return

    def _once(self, client: Client, upload: Upload) -> None:
        if upload.way.startswith("single"):
            [piece] = upload.pieces
            told = client.submit(
                piece.params.encode(),
                custom_id=piece.key,
                idempotency_key=piece.key,
                queue=piece.queue,
                **piece.envelope,
            )
            self._notes.accepted(piece.key, told.id)
            return
        lines = (piece.line() for piece in upload.pieces)
        for answer, piece in zip(client.submit_many(lines), upload.pieces, strict=True):
            if answer.id is None:
                self._notes.complain(f"{piece.key} was refused: {answer.error}")
            else:
                self._notes.accepted(piece.key, answer.id)

    def _cut_off(self, upload: Upload) -> None:
        """Send a part, or all, and leave without reading an answer."""
        if upload.way == "single_cut":
            kind, body = "application/json", upload.pieces[0].line()
        else:
            kind, body = "application/x-ndjson", b"".join(piece.line() + b"\n" for piece in upload.pieces)
        head = (
            f"POST /queue/requests HTTP/1.1\r\nhost: u\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_S)
            connection.connect(str(self._socket))
            connection.sendall(head.encode() + body[: int(len(body) * upload.cut)])
            self.sleep(PAUSE_S)

    # Fetching

    def pull(self, destination: str, forget: float, chance: random.Random) -> None:
        """Pull and acknowledge; forget some, so that their lease ends."""

        def once(client: Client) -> None:
            results = client.pull(destination, limit=chance.choice((1, 10, 50)), wait=0.5, lease=1)
            self._keep(results, "pull")
            self._acknowledge(client, results, forget, chance)

        self._again_and_again(once)

    def stream(self, destination: str, forget: float, chance: random.Random) -> None:
        """The same on a stream. Its window fills with what is forgotten; a new stream gets it again."""

        def once(client: Client) -> None:
            stream = client.stream(destination, window=WINDOW, lease=1, wait=0.5)
            with contextlib.closing(stream):  # type: ignore[type-var]  # a generator, told as an iterator
                for result in stream:
                    self._keep([result], "stream")
                    self._acknowledge(client, [result], forget, chance)
                    if self.stop.is_set():
                        break

        self._again_and_again(once)

    def ask(self, queue: str, chance: random.Random) -> None:
        """Wait for single requests of a queue that has no other reader, and confirm by reading the answer whole."""
        finished: set[str] = set()
        transport = httpx2.HTTPTransport(uds=str(self._socket))
        with httpx2.Client(transport=transport, base_url="http://unhurried", timeout=ANSWER_S) as http:
            while not self.stop.is_set():
                waiting = [(key, id) for key, id in self._ids_of(queue) if id not in finished]
                if not waiting:
                    self.sleep(PAUSE_S)
                    continue
                _, id = chance.choice(waiting)
                with contextlib.suppress(httpx2.TransportError):
                    if self._asked(http, id):
                        finished.add(id)
                        continue
                self.sleep(PAUSE_S)

    def _asked(self, http: httpx2.Client, id: str) -> bool:
        answer = http.get(f"/queue/requests/{id}?wait=0.2&ack=true")
        if answer.status_code in COME_AGAIN:
            return False
        view = msgspec.json.decode(answer.raise_for_status().content, type=_View)
        if view.result is msgspec.UNSET:
            return False
        self._notes.received(
            Receipt(
                request_id=id, delivery_id=None, custom_id=view.custom_id, state=view.state,
                result=bytes(view.result), via="wait",
            )
        )  # fmt: skip
        return True

    def _ids_of(self, queue: str) -> list[tuple[str, str]]:
        answered = dict(self._notes.answered)
        return [(key, id) for key, ids in answered.items() if key.startswith(f"{queue}-") for id in list(ids)]

    def _keep(self, results: Sequence[Result], via: str) -> None:
        for result in results:
            self._notes.received(
                Receipt(
                    request_id=result.request_id, delivery_id=result.delivery_id, custom_id=result.custom_id,
                    state=result.state, result=bytes(result.result), via=via,
                )
            )  # fmt: skip

    def _acknowledge(self, client: Client, results: Sequence[Result], forget: float, chance: random.Random) -> None:
        forgets = 0.0 if self.healthy.is_set() else forget
        ids = [result.delivery_id for result in results if result.delivery_id and chance.random() >= forgets]
        if ids and (unknown := client.ack(ids).unknown):
            self._notes.refused += unknown

    def _again_and_again(self, once: Callable[[Client], None]) -> None:
        """Until the end; troubles of the daemon are its callers' to sit out."""
        with self.client() as client:
            while not self.stop.is_set():
                try:
                    once(client)
                except DaemonUnreachable:
                    self.sleep(PAUSE_S)
                except QueueError as error:
                    if error.status not in COME_AGAIN:
                        raise
                    self.sleep(PAUSE_S)


class _View(msgspec.Struct):
    state: str
    custom_id: str | None = None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def later(at: float, began: float, stop: threading.Event) -> bool:
    """Wait until ``at`` seconds after ``began``, a moment of the monotonic clock. False when stopped before."""
    return not stop.wait(max(at - (time.monotonic() - began), 0.0))


def thread(notes: Notes, name: str, work: Callable[..., None], *arguments: Any) -> threading.Thread:
    """A thread that has begun. What it does not expect is a complaint, not a silent end."""

    def guarded() -> None:
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001  # whatever it is, the judge hears of it
            notes.complain(f"{name}: {type(error).__name__}: {error}")

    started = threading.Thread(target=guarded, name=name, daemon=True)
    started.start()
    return started
