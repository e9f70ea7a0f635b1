"""What the loops ask of upstream, in the words of the domain."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from unhurried.clock import Ms
from unhurried.domain.batch import UpstreamId
from unhurried.domain.settling import Listing, Sighting
from unhurried.domain.submitting import Answer
from unhurried.upstream import shapes
from unhurried.upstream.errors import ResultsNotFound, UpstreamTrouble
from unhurried.upstream.lines import LineCutter, LineTooLong

if TYPE_CHECKING:
    from unhurried.upstream.wire import Method, Reply, Wire  # imports the SDK

BATCHES: Final = "/v1/messages/batches"
PAGE_BATCHES: Final = 1000


class Upstream:
    """Each method is one call (a listing: one per page), made once. All but ``create`` raise ``UpstreamTrouble``."""

    def __init__(self, wire: "Wire") -> None:
        self._wire = wire

    @property
    def base_url(self) -> str:
        """Where the account is. Never contains a secret."""
        return self._wire.base_url

    async def create(
        self, *, anthropic_version: str, anthropic_beta: str, content: AsyncIterator[bytes], content_length: int
    ) -> Answer:
        """POST a batch whose body is ``content``, of exactly ``content_length`` bytes.

        Whatever upstream or the network does comes back as a value. What ``content`` itself raises is raised, bytes may
        have been sent by then; so is a cancellation. ``content`` is closed in every case.
        """
        headers = {
            "content-type": "application/json",
            "content-length": str(content_length),
            "anthropic-version": anthropic_version,
        }
        if anthropic_beta:
            headers["anthropic-beta"] = anthropic_beta
        return await self._wire.create(BATCHES, headers, content)

    async def date(self) -> Ms:
        """The present moment on upstream's clock, to the second."""
        return _date_of(await self._wire.read("GET", BATCHES, {"limit": 1}))

    async def list_since(self, since: Ms | None) -> Listing:
        """Every batch of the account created at ``since`` or later (and some older), or all of them.

        Complete or nothing: a page that is broken, or that brings nothing new, raises ``UpstreamTrouble``.
        """
        found: dict[UpstreamId, Sighting] = {}
        params: dict[str, object] = {"limit": PAGE_BATCHES}
        date: Ms | None = None
        while True:
            reply = await self._wire.read("GET", BATCHES, params)
            date = date if date is not None else _date_of(reply)
            with _shaped(f"GET {BATCHES}"):
                page, has_more = shapes.page(reply.body)
            fresh = [sighting for sighting in page if sighting.id not in found]
            found.update((sighting.id, sighting) for sighting in fresh)
            old = since is not None and all(sighting.created_at < since for sighting in page)
            if not has_more or (page and old):
                break
            if not fresh:
                raise UpstreamTrouble(f"GET {BATCHES}: a page without anything new, but more to come", reachable=True)
            params["after_id"] = page[-1].id
        return Listing(sightings=sorted(found.values(), key=lambda sighting: -sighting.created_at), date=date)

    async def retrieve(self, id: UpstreamId) -> Sighting | None:
        """``None`` when upstream does not know the batch, or does not know it yet."""
        return await self._one("GET", _path(id))

    async def cancel(self, id: UpstreamId) -> Sighting | None:
        """Ask upstream to stop the batch. ``None`` as with ``retrieve``."""
        return await self._one("POST", _path(id) + "/cancel")

    async def result_lines(self, id: UpstreamId, *, bytes_chunk: int = 262_144) -> AsyncGenerator[list[bytes]]:
        """The result lines of an ended batch, as raw bytes in groups of about ``bytes_chunk``.

        Without a newline, blank lines dropped. A last line without its newline is included when the stream ended
        properly: upstream may frame by closing, so whether it is whole only its content can tell, and whether all lines
        came only the batch's counts. Raises ``ResultsNotFound`` for 404 and 410, ``UpstreamTrouble`` otherwise, also in
        the middle. Wrap it in ``contextlib.aclosing`` to let go of the connection when leaving early.
        """
        # By id below our base URL. The batch's ``results_url`` may be absolute; following it would take the SDK, the
        # credentials with it, to whatever host an answer names.
        path = _path(id) + "/results"
        cutter = LineCutter()
        try:
            # A redirect, to a store of files say, is followed; the wire drops the credentials on the way.
            async with self._wire.open("GET", path, follow_redirects=True) as response:
                pieces: list[bytes] = []
                size = 0
                async for piece in response.aiter_bytes():
                    pieces.append(piece)
                    size += len(piece)
                    if size >= bytes_chunk:
                        if lines := cutter.feed(b"".join(pieces)):
                            yield lines
                        pieces, size = [], 0
                if lines := cutter.feed(b"".join([*pieces, b"\n"])):
                    yield lines
        except LineTooLong as error:
            raise UpstreamTrouble(f"GET {path}: {error}", reachable=True) from None
        except UpstreamTrouble as trouble:
            if trouble.status in (404, 410):
                raise ResultsNotFound(trouble.detail, status=trouble.status, reachable=True) from None
            raise

    async def first_line(self, id: UpstreamId) -> bytes | None:
        """The first result line; ``None`` when there are no lines. The rest is not read."""
        async with contextlib.aclosing(self.result_lines(id, bytes_chunk=1)) as groups:
            async for lines in groups:
                return lines[0]
        return None

    async def aclose(self) -> None:
        """Close all connections."""
        await self._wire.aclose()

    async def _one(self, method: "Method", path: str) -> Sighting | None:
        try:
            reply = await self._wire.read(method, path)
        except UpstreamTrouble as trouble:
            if trouble.status == 404:
                return None
            raise
        with _shaped(f"{method} {path}"):
            return shapes.sighting(reply.body)


def _path(id: UpstreamId) -> str:
    return f"{BATCHES}/{quote(id, safe='')}"


def _date_of(reply: "Reply") -> Ms:
    if reply.date is None:
        raise UpstreamTrouble(f"GET {BATCHES}: an answer without a Date", reachable=True)
    return reply.date


@contextlib.contextmanager
def _shaped(call: str) -> Iterator[None]:
    try:
        yield
    except shapes.BadShape as error:
        raise UpstreamTrouble(f"{call}: an answer that cannot be read: {error}", reachable=True) from None
