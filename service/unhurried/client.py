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

import httpx2
import msgspec

NDJSON: Final = "application/x-ndjson"
BLOCK_BYTES: Final = 128 * 1024
"""Lines are written to the socket in blocks of about this size."""
BULK_ANSWER_S: Final = 600.0
"""How long a bulk upload may wait for the daemon: it holds the upload back while much waits to be written."""

T = TypeVar("T")


class DaemonUnreachable(Exception):
    """Nothing answers on the socket, or the connection broke. What was accepted is safe; ask again later."""


class DaemonDown(DaemonUnreachable):
    """Nobody listens on the socket, or there is none: no daemon runs there."""


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

    def ack(self, delivery_ids: Sequence[str]) -> Acked:
        """Confirm deliveries: they are not handed out again."""
        return self._call("POST", "/queue/results/ack", Acked, body={"delivery_ids": list(delivery_ids)})

    def lookup(self, request_ids: Sequence[str]) -> Lookup:
        """The results of those among up to 1,000 requests that are finished, acknowledged or not."""
        return self._call("POST", "/queue/results/lookup", Lookup, body={"ids": list(request_ids)})

    # Operation

    def flush(self, *, queue: str | None = None, model: str | None = None) -> dict[str, Any]:
        """Send what waits now instead of letting it linger."""
        body = {name: value for name, value in (("queue", queue), ("model", model)) if value is not None}
        return self._call("POST", "/queue/flush", dict[str, Any], body=body)

    def batches(self, *, open_only: bool = False, limit: int = 100, before: str | None = None) -> list[dict[str, Any]]:
        """Newest first."""
        query = {"open": "true" if open_only else None, "limit": limit, "before": before}
        batches: list[dict[str, Any]] = self._call("GET", "/queue/batches", dict[str, Any], query=query)["batches"]
        return batches

    def batch(self, batch_id: str) -> dict[str, Any]:
        return self._call("GET", f"/queue/batches/{batch_id}", dict[str, Any])

    def events(self, entity: str | None = None, *, limit: int = 100) -> list[dict[str, Any]]:
        """What happened, to all or to one request or batch: the last ``limit`` events, oldest of them first."""
        query = {"entity": entity, "limit": limit}
        events: list[dict[str, Any]] = self._call("GET", "/queue/events", dict[str, Any], query=query)["events"]
        return events

    def status(self) -> dict[str, Any]:
        return self._call("GET", "/queue/status", dict[str, Any])

    def resume_account(self) -> bool:
        """Lift the account's pause. False when there was none."""
        return bool(self._call("POST", "/queue/account/resume", dict[str, Any])["resumed"])

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether the daemon is alive, and what it says of itself."""
        return self._probe("/healthz")

    def ready(self) -> tuple[bool, dict[str, Any]]:
        return self._probe("/readyz")

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
            kind = DaemonDown if _nobody_listens(error) else DaemonUnreachable
            raise kind(f"no daemon answers at {self.socket}: {error}") from None
        except httpx2.TimeoutException:
            raise DaemonUnreachable(f"the daemon at {self.socket} took too long to answer") from None
        except httpx2.TransportError as error:
            raise DaemonUnreachable(
                f"the connection to {self.socket} broke: {str(error) or type(error).__name__}"
            ) from None


def _nobody_listens(error: BaseException) -> bool:
    """Whether a connection failed for want of a listener: not for want of a permission, or of room in its line."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return isinstance(cause, FileNotFoundError | ConnectionRefusedError)


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
