"""What a receiver gets, what its answer means, and what connections are kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.delivery.means import NEW, OLD, PARCEL, Mailer, saying, silent
from tests.upstream.server import Call, answering, one_by_one, serving
from unhurried import __version__
from unhurried.clock import Ms
from unhurried.domain.delivering import Delivered, Gone, Misconfigured, TryAgain, event

Make = Callable[..., Mailer]
NOW = Ms(1_795_334_400_999)


async def test_one_post_with_the_bytes_that_were_signed(mailer: Make) -> None:
    async with serving(answering(204)) as server:
        outcome = await mailer(environ={"S": OLD}).send(f"{server.url}/hook?a=b&c=%20", "env:S", now=NOW, attempt=3)
    (call,) = server.calls
    assert outcome == Delivered(status=204)
    assert (call.method, call.target) == ("POST", "/hook?a=b&c=%20")
    assert call.body == event(PARCEL, 1_000_000)
    signature = call.headers.pop("webhook-signature")
    assert Webhook(OLD).sign("r1.0", datetime.fromtimestamp(NOW // 1000, UTC), call.body.decode()) == signature
    assert call.headers == {
        "host": server.url.removeprefix("http://"),
        "user-agent": f"unhurried/{__version__}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": str(len(call.body)),
        "webhook-id": "r1.0",
        "webhook-timestamp": "1795334400",
        "unhurried-attempt": "3",
    }


async def test_during_rotation_both_secrets_verify_and_no_third(mailer: Make) -> None:
    async with serving(answering(200)) as server:
        await mailer(environ={"OLD": OLD, "NEW": NEW}).send(server.url, "env:NEW", "env:OLD")
    (call,) = server.calls
    for secret in (OLD, NEW):
        assert Webhook(secret).verify(call.body, call.headers) == json.loads(call.body)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 32).verify(call.body, call.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD).verify(call.body + b" ", call.headers)


async def test_every_attempt_has_the_same_id_and_body(mailer: Make) -> None:
    async with serving(answering(500)) as server:
        mail = mailer(environ={"S": OLD})
        for attempt in (1, 2):
            await mail.send(server.url, "env:S", now=Ms(NOW + attempt * 300_000), attempt=attempt)
    first, second = server.calls
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]


async def test_a_large_result_is_left_out(mailer: Make) -> None:
    async with serving(answering(200)) as server:
        await mailer(result_bytes_max=10).send(server.url)
    data = json.loads(server.calls[0].body)["data"]
    assert (data["result"], data["result_path"]) == (None, "/queue/requests/r1")


async def test_without_secrets_nothing_is_signed(mailer: Make) -> None:
    async with serving(answering(200)) as server:
        assert await mailer().send(server.url) == Delivered(status=200)
    assert "webhook-signature" not in server.calls[0].headers
    assert server.calls[0].headers["webhook-id"] == "r1.0"


async def test_410_ends_it(mailer: Make) -> None:
    async with serving(answering(410)) as server:
        assert isinstance(await mailer().send(server.url), Gone)


async def test_retry_after_is_read(mailer: Make) -> None:
    async with serving(answering(503, retry_after="Sun, 22 Nov 2026 08:02:00 GMT")) as server:
        outcome = await mailer().send(server.url, now=Ms(1_795_334_400_000))
    assert outcome == TryAgain(detail="the receiver answered 503", status=503, retry_after_s=120, throttled=True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed(mailer: Make, status: int) -> None:
    async with serving(answering(200)) as elsewhere, serving(answering(status, location=elsewhere.url)) as server:
        outcome = await mailer().send(server.url)
        assert isinstance(outcome, TryAgain)
        assert outcome.status == status
        assert len(server.calls) == 1
        assert elsewhere.connections == 0


async def test_a_proxy_of_the_environment_is_not_asked(mailer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would dial whatever we tell it, unchecked."""
    async with serving(answering(200)) as proxy, serving(answering(200)) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.lower(), proxy.url)
        assert await mailer().send(server.url) == Delivered(status=200)
        assert proxy.connections == 0


async def test_a_connection_is_used_again(mailer: Make) -> None:
    async with serving(answering(200, b"thanks")) as server:
        mail = mailer()
        for _ in range(3):
            assert await mail.send(server.url) == Delivered(status=200)
        assert (len(server.calls), server.connections) == (3, 1)
        await mail.webhooks.aclose()
        await asyncio.wait_for(server.closed.wait(), 10)
        assert server.open_connections == 0


async def test_a_kept_connection_that_the_receiver_closed_is_replaced_at_once(mailer: Make) -> None:
    """It closed it for being idle, in the moment in which it was used: no attempt is lost to that."""
    async with serving(one_by_one(answering(200), saying(b""), answering(200))) as server:
        mail = mailer()
        assert await mail.send(server.url) == Delivered(status=200)
        assert await mail.send(server.url) == Delivered(status=200)
    assert server.connections == 2
    assert len({call.headers["webhook-id"] for call in server.calls}) == 1


async def test_a_new_connection_that_is_closed_without_an_answer_is_a_failed_attempt(mailer: Make) -> None:
    async with serving(saying(b"")) as server:
        outcome = await mailer().send(server.url)
    assert isinstance(outcome, TryAgain)
    assert "without sending a response" in outcome.detail
    assert len(server.calls) == 1


async def test_nobody_listens(mailer: Make) -> None:
    async with serving(silent) as server:
        pass
    assert await mailer().send(f"{server.url}/secret-path") == TryAgain(
        detail=f"{server.url}: ConnectError: [Errno 111] Connect call failed ('127.0.0.1', {server.url.split(':')[2]})"
    )


async def test_a_slow_receiver_holds_up_nobody_else(mailer: Make) -> None:
    called = asyncio.Semaphore(0)

    async def handle(call: Call) -> None:
        called.release()
        await silent(call)

    async with serving(handle) as slow, serving(answering(200)) as quick:
        mail = mailer()
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(mail.send(slow.url)) for _ in range(150)]
            for _ in waiting:
                await asyncio.wait_for(called.acquire(), 10)
            assert await mail.send(quick.url) == Delivered(status=200)
            assert not any(task.done() for task in waiting)
            for task in waiting:
                task.cancel()


async def test_an_attempt_that_is_cut_off_leaves_no_connection(mailer: Make) -> None:
    called = asyncio.Event()

    async def handle(call: Call) -> None:
        called.set()
        await silent(call)

    async with serving(handle) as server:
        sending = asyncio.create_task(mailer().send(server.url))
        await asyncio.wait_for(called.wait(), 10)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await asyncio.wait_for(server.closed.wait(), 10)
        assert server.open_connections == 0


async def test_an_application_on_a_socket(mailer: Make, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    async with serving(answering(200), unix=path) as server:
        mail = mailer(environ={"S": OLD})
        url = f"http+unix://{str(path).replace('/', '%2F')}/hook?x"
        assert await mail.send(url) == Delivered(status=200)
        assert await mail.send(url, "env:S") == Delivered(status=200)
    unsigned, signed = server.calls
    assert unsigned.target == "/hook?x"
    assert unsigned.headers["host"] == "localhost"
    assert "webhook-signature" not in unsigned.headers
    assert Webhook(OLD).verify(signed.body, signed.headers)


async def test_a_secret_that_is_missing_sends_nothing(mailer: Make) -> None:
    async with serving(answering(200)) as server:
        outcome = await mailer().send(server.url, "env:NOT_SET")
        assert outcome == Misconfigured(detail="the secret env:NOT_SET is not set in the daemon's environment")
        assert server.connections == 0
