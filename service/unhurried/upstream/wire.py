"""The one module that holds an SDK client: HTTP in, bytes out, failures translated.

The SDK is used for what it knows better than we do (finding, renewing and sending credentials, proxies, TLS) and kept
from what it would do too much: no retries, no models, no spans, no redirects that carry a key along.
"""

import contextlib
import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import anthropic
import httpx2
from anthropic import RequestOptions

from unhurried.clock import Ms
from unhurried.domain.submitting import Answer, Created, NoAnswer
from unhurried.settings import UpstreamSettings
from unhurried.upstream import address, failures, patient, shapes
from unhurried.upstream.errors import UpstreamTrouble, error_answer, http_date, trouble_of
from unhurried.upstream.upload import Upload, current

Method = Literal["GET", "POST"]

SIMULATOR_HEADER: Final = "x-unhurried-simulator"
PLACEHOLDER_KEY: Final = "simulator"
ANSWER_BYTES_MAX: Final = 32_000_000
"""A page of 1,000 batches has half a megabyte."""
_SENT_ANYWHERE: Final = frozenset({"host", "accept", "accept-encoding", "connection", "user-agent"})


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A whole 2xx answer."""

    body: bytes
    date: Ms | None


class Wire:
    def __init__(
        self,
        settings: UpstreamSettings,
        on_answer: Callable[[str | None, Ms | None], None],
        on_call: Callable[[str, int | None, float], None] = lambda *_: None,
    ) -> None:
        """Reads files and certificates: not for the event loop. Raises ``UpstreamTrouble`` without a credential."""
        self._on_answer = on_answer
        self._on_call = on_call
        self._must_be_simulator = settings.simulator
        self._is_simulator = False
        where = address.of(settings)
        tls = httpx2.create_ssl_context()  # one for all: it reads every certificate, 90 ms
        connect_s = settings.connect_timeout_s
        read_timeout = httpx2.Timeout(settings.read_timeout_s, connect=connect_s)
        self._create_timeout = httpx2.Timeout(
            connect=connect_s, pool=connect_s, write=settings.write_timeout_s, read=settings.answer_timeout_s
        )
        self._reads = _sdk(settings, _http(where, tls, read_timeout, keep_alive=10), where.url)
        # On a connection of its own, a create never meets one that upstream has just closed for being idle: whether the
        # request was still read then, nobody knows.
        self._creates = self._reads.with_options(http_client=_http(where, tls, read_timeout, keep_alive=0))
        patient.install(self._creates._client)  # noqa: SLF001
        self._creates._client.event_hooks["request"].append(_hand_over)  # noqa: SLF001
        self.base_url = where.shown or str(self._reads.base_url.copy_with(userinfo=b"")).rstrip("/")
        self._origin = _origin(self._reads.base_url)
        self._reads._client.event_hooks["request"].append(self._undress)  # noqa: SLF001

    async def read(self, method: Method, path: str, params: Mapping[str, object] | None = None) -> Reply:
        """Call and return the whole 2xx answer. Raises ``UpstreamTrouble``."""
        async with self.open(method, path, params) as response:
            body = await _body(response, f"{method} {path}")
            return Reply(body=body, date=http_date(response.headers.get("date")))

    @contextlib.asynccontextmanager
    async def open(
        self, method: Method, path: str, params: Mapping[str, object] | None = None, *, follow_redirects: bool = False
    ) -> AsyncIterator[httpx2.Response]:
        """A 2xx answer whose body is still to be read, closed at the end in every case.

        Raises ``UpstreamTrouble`` for any other answer, and for what goes wrong while the body is read in the ``with``.
        """
        call = f"{method} {path}"
        with _translated(call):
            options: RequestOptions = {"params": params or {}, "follow_redirects": follow_redirects}
            response = await self._request(self._reads, method, path, options)
            async with contextlib.aclosing(response):
                self._note(response.history[0] if response.history else response)
                if not response.is_success:
                    body = await _body(response, call)
                    answer = error_answer(response.status_code, response.headers, body)
                    raise trouble_of(answer, call, response.headers.get("request-id"))
                yield response

    async def create(self, path: str, headers: Mapping[str, str], pages: AsyncIterator[bytes]) -> Answer:
        """POST a batch, once. Raises nothing for what upstream or the network does, only what ``pages`` raises."""
        call = f"POST {path}"
        upload = Upload(pages)
        token = current.set(upload)
        try:
            if self._must_be_simulator and not self._is_simulator:
                await self.read("GET", path, {"limit": 1})  # no work goes to a server that is not what we were told
            options: RequestOptions = {"headers": headers, "timeout": self._create_timeout, "follow_redirects": False}
            response = await self._request(self._creates, "POST", path, options, upload)
        except UpstreamTrouble as trouble:
            return NoAnswer(sent=False, detail=trouble.detail)
        except failures.FAILURES as error:
            if upload.error is not None:
                raise upload.error from None
            self._is_simulator = False  # something else may listen there by the next time
            unsent = not upload.handed_over or (not upload.asked and failures.is_unconnected(error))
            return NoAnswer(sent=not unsent, detail=f"{call}: {failures.describe(error)}")
        finally:
            current.reset(token)
            await upload.aclose()
        async with contextlib.aclosing(response):
            return await self._answer(response, call)

    async def aclose(self) -> None:
        """Close both connection pools."""
        try:
            await self._creates.close()
        finally:
            await self._reads.close()

    async def _request(
        self,
        client: anthropic.AsyncAnthropic,
        method: Method,
        path: str,
        options: RequestOptions,
        pages: AsyncIterable[bytes] | None = None,
    ) -> httpx2.Response:
        """One HTTP request through the SDK; the bare answer with whatever status, its body unread."""
        bare: dict[str, Any] = {"cast_to": httpx2.Response, "stream": True, "stream_cls": anthropic.AsyncStream[Any]}
        options = {**options, "max_retries": 0}
        began = time.monotonic()
        status: int | None = None
        try:
            if method == "GET":
                response = cast(httpx2.Response, await client.get(path, options=options, **bare))
            else:
                response = cast(httpx2.Response, await client.post(path, content=pages, options=options, **bare))
            status = response.status_code
        finally:
            self._on_call(_name(method, path), status, time.monotonic() - began)
        return response

    async def _answer(self, response: httpx2.Response, call: str) -> Answer:
        status = response.status_code
        try:
            self._note(response)
            with _translated(call):
                body = await _body(response, call)
        except UpstreamTrouble as trouble:
            # The status alone is a definite no, except where the body tells what the no is about.
            if response.is_success or status in (400, 422):
                return NoAnswer(sent=True, detail=f"{status}, but {trouble.detail}")
            body = b""
        if not response.is_success:
            return error_answer(status, response.headers, body)
        try:
            upstream_id, created_at = shapes.new_batch(body)
        except shapes.BadShape as error:
            return NoAnswer(sent=True, detail=f"{call}: {status} without a batch: {error}")
        created_at = created_at or http_date(response.headers.get("date"))
        if created_at is None:
            return NoAnswer(sent=True, detail=f"{call}: {status} without a time")
        return Created(upstream_id=upstream_id, created_at=created_at)

    def _note(self, response: httpx2.Response) -> None:
        """Look at what every answer tells. Raises ``UpstreamTrouble`` when it should be a simulator's and is not."""
        if response.status_code == 401 and (tokens := self._reads._token_cache) is not None:  # noqa: SLF001
            tokens.invalidate()  # the SDK does so only where it may retry
        self._is_simulator = SIMULATOR_HEADER in response.headers
        if self._must_be_simulator and not self._is_simulator:
            raise UpstreamTrouble(
                f"{self.base_url} does not say that it is the simulator, so nothing is sent to it: start `unhurried"
                " simulate` there, or unset UNHURRIED_UPSTREAM__SIMULATOR",
                reachable=True,
            )
        self._on_answer(response.headers.get("anthropic-workspace-id"), http_date(response.headers.get("date")))

    async def _undress(self, request: httpx2.Request) -> None:
        """Before each request, redirected ones too: only upstream itself sees credentials.

        httpx2 drops ``Authorization`` between origins by itself, but not ``x-api-key``, and neither from http to https.
        """
        if _origin(request.url) != self._origin:
            for name in set(request.headers) - _SENT_ANYWHERE:
                del request.headers[name]


def _name(method: Method, path: str) -> str:
    """Which call it is, for the metrics: of few values, whatever the ids."""
    match path.removeprefix("/v1/messages/batches").strip("/").split("/"):
        case [""]:
            return "create" if method == "POST" else "list"
        case [_]:
            return "retrieve"
        case [_, ("results" | "cancel") as what]:
            return what
        case _:
            return "other"


def _sdk(settings: UpstreamSettings, http: httpx2.AsyncClient, url: str | None) -> anthropic.AsyncAnthropic:
    key = settings.api_key.get_secret_value() if settings.api_key is not None else None
    if key is None and settings.simulator:
        key = PLACEHOLDER_KEY  # a key given here keeps the SDK from finding, and sending, a real one
    try:
        client = anthropic.AsyncAnthropic(
            api_key=key,
            base_url=url,
            timeout=http.timeout,
            max_retries=0,
            open_telemetry=False,
            http_client=http,
            middleware=[_bare],
        )
    except anthropic.AnthropicError as error:  # a profile that is missing or broken
        raise UpstreamTrouble(f"no usable credential: {failures.describe(error)}", reachable=False) from None
    if client.api_key is None and client.auth_token is None and client.credentials is None:
        raise UpstreamTrouble("no credential: set ANTHROPIC_API_KEY, or another that the SDK knows", reachable=False)
    return client


def _http(
    where: address.Address, tls: ssl.SSLContext, timeout: httpx2.Timeout, *, keep_alive: int
) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=20, max_keepalive_connections=keep_alive)
    if where.local:
        # Explicitly, because the SDK's default puts HTTP_PROXY even between this machine and itself.
        transport = httpx2.AsyncHTTPTransport(verify=tls, limits=limits, uds=where.socket)
        return anthropic.DefaultAsyncHttpxClient(transport=transport, timeout=timeout)
    return anthropic.DefaultAsyncHttpxClient(verify=tls, limits=limits, timeout=timeout)


async def _hand_over(_request: httpx2.Request) -> None:
    if (upload := current.get()) is not None:
        upload.handed_over = True


async def _bare(request: Any, call_next: Any) -> Any:
    """SDK middleware: hand back the HTTP answer as it is.

    Without it the SDK reads the whole body of an error answer before it raises, and when that body is cut, the status
    is lost with it.
    """
    answer = await call_next(request)
    return getattr(answer, "http_response", answer)


async def _body(response: httpx2.Response, call: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > ANSWER_BYTES_MAX:
            raise UpstreamTrouble(f"{call}: an answer of more than {ANSWER_BYTES_MAX} bytes", reachable=True)
    return b"".join(parts)


@contextlib.contextmanager
def _translated(call: str) -> Iterator[None]:
    try:
        yield
    except failures.FAILURES as error:
        raise failures.trouble(error, call) from error


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
