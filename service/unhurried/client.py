"""The Python client: thin, synchronous, over the daemon's Unix socket. It imports nothing of the daemon.

    with Client("/run/unhurried/unhurried.sock") as queue:
        request = queue.submit({"model": "claude-haiku-4-5", "max_tokens": 64, "messages": [...]}, queue="labels")
        for result in queue.results("pull:labels"):
            print(result.custom_id, result.state)
            queue.ack([result.delivery_id])

``params`` may be an object or the bytes of one: bytes travel as they are. A ``result`` is upstream's object as the
bytes that came (``msgspec.Raw``); ``msgspec.json.decode`` or ``json.loads`` reads it.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx2
import msgspec

NDJSON: Final = "application/x-ndjson"
BLOCK_BYTES: Final = 128 * 1024
"""Lines are written to the socket in blocks of about this size."""
STREAM_SILENCE_S: Final = 60.0
"""A stream is pinged every 15 s; one that says nothing for so long is broken."""
WEBHOOK_TEST_S: Final = 60.0
MANY_S: Final = 600.0
BULK_ANSWER_S: Final = 600.0
"""How long a bulk upload may wait for the daemon: it holds the upload back while much waits to be written."""

T = TypeVar("T")


class DaemonUnreachable(Exception):
    """Nothing answers on the socket, or the connection broke. What was accepted is safe; ask again later."""


class DaemonDown(DaemonUnreachable):
    """Nobody listens on the socket, or there is none: no daemon runs there."""


class DaemonForbidden(DaemonUnreachable):
    """This user may not connect to the socket; a daemon may be there all the same."""


class QueueError(Exception):
    """The daemon said no. ``code`` is stable and for programs; the text is for people."""

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status = status
        self.problem = dict(problem)
        self.code = str(problem.get("code") or status)
        self.retry_after_s = retry_after_s
        """Seconds after which the same call may succeed; None when it will not."""
        super().__init__(str(problem.get("detail") or problem.get("title") or f"status {status}"))


class Submitted(msgspec.Struct, frozen=True):
    """An accepted request. ``duplicate``: the same idempotency key had brought it before; nothing is sent twice."""

    id: str
    state: str
    duplicate: bool = False


class LineAnswer(msgspec.Struct, frozen=True):
    """What became of line ``line`` (from 1) of a bulk upload: an ``id``, or an ``error`` (problem details)."""

    line: int
    id: str | None = None
    state: str | None = None
    duplicate: bool = False
    error: dict[str, Any] | None = None


class Result(msgspec.Struct, frozen=True):
    """The outcome of a request. ``result`` is upstream's object, byte for byte."""

    request_id: str
    state: str
    result: msgspec.Raw
    delivery_id: str | None = None
    custom_id: str | None = None
    queue: str = ""
    attempt: int = 0
    stored_at: str | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"null")


class Streamed(Result, frozen=True):
    """A result of a stream. ``event_id`` is the cursor behind it."""

    event_id: int = 0


class Acked(msgspec.Struct, frozen=True):
    """``confirmed`` by this call, ``already`` before it; ``unknown`` are no deliveries."""

    confirmed: list[str] = []
    already: list[str] = []
    unknown: list[str] = []


class Lookup(msgspec.Struct, frozen=True):
    """The finished ones among the ids asked for. ``truncated``: ask again for those behind the last one."""

    results: list[Result] = []
    truncated: bool = False


class _BulkLine(msgspec.Struct, frozen=True):
    line: int = 0
    id: str | None = None
    state: str | None = None
    duplicate: bool = False
    error: dict[str, Any] | None = None
    summary: dict[str, int] | None = None
    status: int | None = None


class _Pulled(msgspec.Struct, frozen=True):
    results: list[Result]


_bulk_line: Final = msgspec.json.Decoder(_BulkLine)


class Client:
    """One connection pool to one daemon. Every method raises ``DaemonUnreachable`` or ``QueueError``."""

    def __init__(
        self, socket: str | Path, *, timeout_s: float = 30.0, transport: httpx2.BaseTransport | None = None
    ) -> None:
        """``timeout_s`` is for one answer; calls that wait add their ``wait``. ``transport`` is for tests."""
        self.socket = Path(socket)
        self._timeout_s = timeout_s
        self._http = httpx2.Client(
            transport=transport or httpx2.HTTPTransport(uds=str(socket)), base_url="http://unhurried", timeout=timeout_s
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # Requests

    def submit(self, params: Mapping[str, Any] | bytes, **envelope: Any) -> Submitted:
        """Hand in one request; when this returns it is on disk. ``envelope``: queue, deadline, custom_id, …"""
        raw = msgspec.Raw(params if isinstance(params, bytes) else msgspec.json.encode(params))
        return self._call("POST", "/queue/requests", Submitted, body={**envelope, "params": raw})

    def submit_many(self, lines: Iterable[bytes]) -> Iterator[LineAnswer]:
        """Hand in many, one JSON envelope a line; yields one answer a line, in order, once all lines have been sent.

        When this breaks off, the lines stored so far stay stored; sending all again is safe if each line has an
        ``idempotency_key``. Raises ``QueueError`` with ``lines_committed`` when the daemon has no room for more.
        """
        timeout = httpx2.Timeout(self._timeout_s, read=BULK_ANSWER_S, write=BULK_ANSWER_S)
        complete = False
        sending = self._http.stream(
            "POST", "/queue/requests", content=_blocks(lines), headers={"content-type": NDJSON}, timeout=timeout
        )
        with self._reaching(), sending as answer:
            if NDJSON not in answer.headers.get("content-type", ""):
                answer.read()
                raise _problem(answer)
            for line in _lines(answer.iter_bytes()):
                told = _bulk_line.decode(line)
                if told.summary is not None:
                    complete = True
                elif told.line:
                    yield LineAnswer(told.line, told.id, told.state, told.duplicate, told.error)
                else:
                    raise QueueError(told.status or answer.status_code, msgspec.json.decode(line))
        if not complete:
            raise DaemonUnreachable(f"the daemon at {self.socket} broke off its answer")

    def get(self, request_id: str, *, wait: float = 0, ack: bool = False) -> dict[str, Any]:
        """One request; its ``result`` too once it is finished, held back at most ``wait`` seconds until it is."""
        query = {"wait": wait or None, "ack": "true" if ack else None}
        return self._call("GET", f"/queue/requests/{request_id}", dict[str, Any], query=query, wait_s=wait)

    def attempts(self, request_id: str) -> list[dict[str, Any]]:
        """Every batch that a request has been in, oldest first, and what came of it there."""
        path = f"/queue/requests/{request_id}/attempts"
        attempts: list[dict[str, Any]] = self._call("GET", path, dict[str, Any])["attempts"]
        return attempts

    def requests(
        self,
        *,
        queue: str | None = None,
        state: str | None = None,
        batch: str | None = None,
        custom_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Newest first, one page and the cursor to the next. A page can be short and still have a cursor."""
        query = {
            "queue": queue, "state": state, "batch": batch, "custom_id": custom_id, "limit": limit, "cursor": cursor
        }  # fmt: skip
        page = self._call("GET", "/queue/requests", dict[str, Any], query=query)
        return page["requests"], page.get("cursor")

    def cancel(self, request_id: str) -> dict[str, Any]:
        """Cancel at once what is queued; what has been sent is flagged, and a result that arrives anyway counts."""
        return self._call("POST", f"/queue/requests/{request_id}/cancel", dict[str, Any])

    def retry(self, request_id: str, *, max_wait: float | None = None) -> dict[str, Any]:
        """Queue a request again that was errored, expired or canceled. ``max_wait``: due in so many seconds."""
        body = {} if max_wait is None else {"max_wait": max_wait}
        return self._call("POST", f"/queue/requests/{request_id}/retry", dict[str, Any], body=body)

    def retry_many(self, *, dry_run: bool = True, **filter: Any) -> dict[str, Any]:
        """One step through those that ``filter`` names (queue, model, states, error_type, since), queueing them again
        unless ``dry_run``; hand its ``cursor`` back for the next one until it is None."""
        given = {name: value for name, value in filter.items() if value is not None}
        return self._call("POST", "/queue/requests/retry", dict[str, Any], body={**given, "dry_run": dry_run})

    def erase(self, request_id: str) -> dict[str, Any]:
        """Take the contents of a request out, for good."""
        return self._call("POST", f"/queue/requests/{request_id}/erase", dict[str, Any])

    # Results

    def pull(
        self, destination: str = "pull:default", *, limit: int = 100, wait: float = 0, lease: float | None = None
    ) -> list[Result]:
        """Some results that nobody has acknowledged, waiting at most ``wait`` seconds for the first one.

        They are handed out again when ``lease`` seconds have passed without ``ack``; an ack counts even later.
        """
        query = {"destination": destination, "limit": limit, "wait": wait or None, "lease": lease}
        return self._call("GET", "/queue/results", _Pulled, query=query, wait_s=wait).results

    def results(self, destination: str = "pull:default", *, limit: int = 100, wait: float = 60.0) -> Iterator[Result]:
        """Every result of a destination as it arrives, for ever. Acknowledge each once it is safe with you."""
        while True:
            yield from self.pull(destination, limit=limit, wait=wait)

    def stream(
        self,
        destination: str = "pull:default",
        *,
        window: int = 100,
        lease: float | None = None,
        after: int | None = None,
        wait: float | None = None,
    ) -> Iterator[Streamed]:
        """Results as they come, on one connection, at most ``window`` of them unacknowledged at once.

        What was handed out and not acknowledged goes back when the iterator is closed or the connection breaks.
        ``after``: skip what came before that ``event_id``, and it. Ends when the daemon stops, or, with ``wait``, when
        nothing came for so many seconds; raises ``DaemonUnreachable`` when the connection breaks.
        """
        query: dict[str, Any] = {"destination": destination, "window": window, "lease": lease, "after": after}
        query["wait"] = wait
        given = {name: value for name, value in query.items() if value is not None}
        timeout = httpx2.Timeout(self._timeout_s, read=STREAM_SILENCE_S)
        streaming = self._http.stream("GET", "/queue/results/stream", params=given, timeout=timeout)
        with self._reaching(), streaming as answer:
            if not answer.is_success:
                answer.read()
                raise _problem(answer)
            for event_id, data in _events(answer.iter_bytes()):
                result = msgspec.json.decode(data, type=Streamed)
                yield msgspec.structs.replace(result, event_id=event_id)

    def ack(self, delivery_ids: Sequence[str]) -> Acked:
        """Confirm deliveries: they are not handed out again."""
        return self._call("POST", "/queue/results/ack", Acked, body={"delivery_ids": list(delivery_ids)})

    def lookup(self, request_ids: Sequence[str]) -> Lookup:
        """The results of those among up to 1,000 requests that are finished, acknowledged or not."""
        return self._call("POST", "/queue/results/lookup", Lookup, body={"ids": list(request_ids)})

    # Operation

    def flush(self, *, queue: str | None = None, model: str | None = None) -> dict[str, Any]:
        """Send what waits now instead of letting it linger. ``held``: what a pause keeps back all the same."""
        body = {name: value for name, value in (("queue", queue), ("model", model)) if value is not None}
        return self._call("POST", "/queue/flush", dict[str, Any], body=body)

    def batches(self, *, open_only: bool = False, limit: int = 100, before: str | None = None) -> list[dict[str, Any]]:
        """Newest first."""
        query = {"open": "true" if open_only else None, "limit": limit, "before": before}
        batches: list[dict[str, Any]] = self._call("GET", "/queue/batches", dict[str, Any], query=query)["batches"]
        return batches

    def batch(self, batch_id: str) -> dict[str, Any]:
        return self._call("GET", f"/queue/batches/{batch_id}", dict[str, Any])

    def events(self, entity: str | None = None, *, limit: int = 100, since: str | None = None) -> list[dict[str, Any]]:
        """What happened, to all or to one request or batch: the last ``limit`` events, oldest of them first, without
        those before ``since`` (RFC 3339)."""
        query = {"entity": entity, "limit": limit, "since": since}
        events: list[dict[str, Any]] = self._call("GET", "/queue/events", dict[str, Any], query=query)["events"]
        return events

    def status(self) -> dict[str, Any]:
        return self._call("GET", "/queue/status", dict[str, Any])

    def queues(self) -> list[dict[str, Any]]:
        """Every queue by name, with its own settings and those that hold."""
        queues: list[dict[str, Any]] = self._call("GET", "/queue/queues", dict[str, Any])["queues"]
        return queues

    def queue(self, name: str) -> dict[str, Any]:
        return self._call("GET", f"/queue/queues/{quote(name, safe='')}", dict[str, Any])

    def set_queue(self, name: str, **settings: Any) -> dict[str, Any]:
        """Change settings of a queue, which may be new; None hands one back to the daemon."""
        return self._call("PATCH", f"/queue/queues/{quote(name, safe='')}", dict[str, Any], body=settings)

    def pause_queue(self, name: str, reason: str | None = None) -> dict[str, Any]:
        """Form no batch of this queue until it is resumed; it goes on accepting."""
        body = {} if reason is None else {"reason": reason}
        return self._call("POST", f"/queue/queues/{quote(name, safe='')}/pause", dict[str, Any], body=body)

    def resume_queue(self, name: str) -> bool:
        """False when it was not paused."""
        return bool(self._call("POST", f"/queue/queues/{quote(name, safe='')}/resume", dict[str, Any])["resumed"])

    def drain(self, *, stop: bool = False) -> dict[str, Any]:
        """Accept nothing new, let everything go its way, and tell what is left. ``stop``: stop the daemon then, if it
        is empty; raises ``QueueError`` (``not_drained``) when it is not."""
        return self._call("POST", "/queue/drain", dict[str, Any], body={"stop": stop})

    def drained(self) -> dict[str, Any]:
        """What is left, whether the daemon is being drained or not."""
        return self._call("GET", "/queue/drain", dict[str, Any])

    def undrain(self) -> bool:
        """Accept again. False when it was not being drained."""
        return bool(self._call("POST", "/queue/undrain", dict[str, Any])["was_draining"])

    def resume_account(self) -> bool:
        """Lift the account's pause. False when there was none."""
        return bool(self._call("POST", "/queue/account/resume", dict[str, Any])["resumed"])

    def release_restored(self) -> bool:
        """Send again after a restore, though it is not known yet what was sent since the copy was made. False when
        nothing was held back."""
        return bool(self._call("POST", "/queue/restored/release", dict[str, Any])["released"])

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether the daemon is alive, and what it says of itself."""
        return self._probe("/healthz")

    def ready(self) -> tuple[bool, dict[str, Any]]:
        return self._probe("/readyz")

    # Destinations and deliveries

    def destinations(
        self, *, kind: str | None = None, limit: int = 100, after: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """By name, one page and the ``after`` of the next one. ``kind``: ``webhook`` or ``pull``."""
        query = {"kind": kind, "limit": limit, "after": after}
        page = self._call("GET", "/queue/destinations", dict[str, Any], query=query)
        return page["destinations"], page.get("cursor")

    def destination(self, name: str) -> dict[str, Any]:
        """One, with its whole URL and the references to its secrets."""
        return self._call("GET", _destination(name), dict[str, Any])

    def put_webhook(
        self, name: str, url: str, *, secrets: Sequence[str] = (), concurrency: int | None = None
    ) -> dict[str, Any]:
        """Add ``webhook:NAME``, or change it. ``secrets`` are references: ``env:NAME``, ``file:/path``."""
        body = {"url": url, "secrets": list(secrets), "concurrency": concurrency}
        return self._call("PUT", _destination(name), dict[str, Any], body=body)

    def pause_destination(self, name: str, reason: str | None = None) -> bool:
        """Attempt nothing there until it is resumed. False when it was paused before."""
        body = {} if reason is None else {"reason": reason}
        return bool(self._call("POST", _destination(name, "/pause"), dict[str, Any], body=body)["paused"])

    def resume_destination(self, name: str) -> bool:
        """End a pause, or have one that is failing tried once, now. False when there was nothing to end."""
        return bool(self._call("POST", _destination(name, "/resume"), dict[str, Any])["resumed"])

    def test_destination(self, name: str) -> dict[str, Any]:
        """Send one signed test event now, and tell what came of it."""
        return self._call("POST", _destination(name, "/test"), dict[str, Any], wait_s=WEBHOOK_TEST_S)

    def deliveries(
        self,
        *,
        destination: str | None = None,
        states: Sequence[str] = (),
        since: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Newest first, one page and the cursor to the next. A page can be short and still have a cursor."""
        query = {"destination": destination, "state": list(states), "since": since, "limit": limit, "cursor": cursor}
        page = self._call("GET", "/queue/deliveries", dict[str, Any], query=query)
        return page["deliveries"], page.get("cursor")

    def delivery(self, delivery_id: str) -> dict[str, Any]:
        return self._call("GET", f"/queue/deliveries/{quote(delivery_id, safe='')}", dict[str, Any])

    def redeliver(self, delivery_id: str) -> dict[str, Any]:
        """Deliver a result again; the new delivery. Raises ``QueueError`` (``not_redeliverable``) if it cannot be."""
        return self._call("POST", f"/queue/deliveries/{quote(delivery_id, safe='')}/redeliver", dict[str, Any])

    def redeliver_many(
        self, destination: str, *, states: Sequence[str] = ("dead",), since: str | None = None, dry_run: bool = True
    ) -> int:
        """Deliver again what ended in these states at one destination; how many. ``dry_run``: only count them."""
        body = {"destination": destination, "states": list(states), "since": since, "dry_run": dry_run}
        path = "/queue/deliveries/redeliver"
        return int(self._call("POST", path, dict[str, Any], body=body, wait_s=MANY_S)["deliveries"])

    # How

    def _probe(self, path: str) -> tuple[bool, dict[str, Any]]:
        with self._reaching():
            answer = self._http.get(path)
        return answer.is_success, _decoded(answer, dict[str, Any])

    def _call(
        self,
        method: str,
        path: str,
        type_: type[T],
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        wait_s: float = 0,
    ) -> T:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        content = msgspec.json.encode(body) if body is not None else None
        headers = {"content-type": "application/json"} if content is not None else {}
        with self._reaching():
            answer = self._http.request(
                method,
                path,
                params=given,
                content=content,
                headers=headers,
                timeout=httpx2.Timeout(self._timeout_s, read=self._timeout_s + wait_s),
            )
        if not answer.is_success:
            raise _problem(answer)
        return _decoded(answer, type_)

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx2.ConnectError as error:
            raise _unconnected(self.socket, error) from None
        except httpx2.TimeoutException:
            raise DaemonUnreachable(f"the daemon at {self.socket} took too long to answer") from None
        except httpx2.TransportError as error:
            raise DaemonUnreachable(
                f"the connection to {self.socket} broke: {str(error) or type(error).__name__}"
            ) from None


def _unconnected(socket: Path, error: BaseException) -> DaemonUnreachable:
    """Tells apart want of a socket, of a listener, of a permission, and of room in its line."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    says = f"no daemon answers at {socket}"
    match cause:
        case FileNotFoundError() | NotADirectoryError():
            return DaemonDown(f"{says}: there is no socket")
        case ConnectionRefusedError():
            return DaemonDown(f"{says}: nobody listens there (connection refused)")
        case PermissionError():
            return DaemonForbidden(
                f"no permission to connect to {socket}: you are not in the group of the socket or its folder"
            )
        case _:
            return DaemonUnreachable(f"{says}: {error}")


def _decoded(answer: httpx2.Response, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.content, type=type_)
    except msgspec.DecodeError as error:
        title = f"the answer to {answer.request.url.path} is not what this client knows ({error})"
        raise QueueError(answer.status_code, {"title": title, "code": "unknown_answer"}) from None


def _problem(answer: httpx2.Response) -> QueueError:
    try:
        problem = msgspec.json.decode(answer.content, type=dict[str, Any])
    except msgspec.DecodeError:
        problem = {"title": f"status {answer.status_code} without an explanation"}
    after = answer.headers.get("retry-after", "")
    return QueueError(answer.status_code, problem, float(after) if after.isdigit() else None)


def _destination(name: str, act: str = "") -> str:
    return f"/queue/destinations/{quote(name, safe=':')}{act}"


def _events(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The id and the data of each server-sent event; what else there is (pings, the pause of a reconnect) is none."""
    rest, id, data = b"", 0, []
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            name, _, value = line.partition(b": ")
            if name == b"id":
                id = int(value)
            elif name == b"data":
                data.append(value)
            elif not line and data:
                yield id, b"\n".join(data)
                data = []


def _blocks(lines: Iterable[bytes]) -> Iterator[bytes]:
    block: list[bytes] = []
    size = 0
    for line in lines:
        block.append(line)
        size += len(line) + 1
        if size >= BLOCK_BYTES:
            block.append(b"")
            yield b"\n".join(block)
            block, size = [], 0
    if block:
        block.append(b"")
        yield b"\n".join(block)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line for line in whole if line)
    if rest:
        yield rest
