"""A parcel, secrets, and a short way to send."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.upstream.server import Call, Handler
from unhurried.clock import Ms, SystemClock
from unhurried.delivery import Webhooks
from unhurried.domain.delivering import Outcome, Parcel, SecretRef, parse_secret_ref, parse_target
from unhurried.domain.states import RequestState

PARCEL = Parcel(
    delivery_id="r1.0",
    attempt=1,
    request_id="r1",
    custom_id=None,
    queue="labels",
    state=RequestState.SUCCEEDED,
    stored_at=Ms(1_795_334_400_000),
    metadata=None,
    result='{"type":"succeeded","message":"grün"}'.encode(),
)
OLD = "whsec_" + base64.b64encode(b"the old secret, of 24 bytes"[:24]).decode()
NEW = "whsec_" + base64.b64encode(b"another one" * 5).decode()


@dataclass
class Mailer:
    webhooks: Webhooks

    async def send(
        self, url: str, *secrets: str, now: Ms | None = None, attempt: int = 1, parcel: Parcel = PARCEL
    ) -> Outcome:
        refs: Sequence[SecretRef] = [parse_secret_ref(text) for text in secrets]
        moment = SystemClock().now() if now is None else now
        return await self.webhooks.send(parse_target(url), refs, replace(parcel, attempt=attempt), moment)


def saying(raw: bytes, *, then_close: bool = True) -> Handler:
    """Read the request, answer with these very bytes."""

    async def handle(call: Call) -> None:
        await call.read()
        call.writer.write(raw)
        await call.writer.drain()
        if then_close:
            call.writer.close()

    return handle


def without_end(head: bytes, part: bytes) -> Handler:
    """Answer with ``head`` and then ``part`` again and again, until the client leaves."""

    async def handle(call: Call) -> None:
        await call.read()
        call.writer.write(head)
        many = part * (1 + 4_000 // len(part))
        while True:
            call.writer.write(many)
            await call.writer.drain()

    return handle


async def silent(call: Call) -> None:
    """Read for ever, answer never."""
    await call.reader.read()
