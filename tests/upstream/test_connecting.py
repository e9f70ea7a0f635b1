"""What is sent to whom, with which credential, and what importing costs."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.upstream.bodies import create
from tests.upstream.conftest import Connected
from tests.upstream.server import Call, answering, batch, page, serving
from unhurried.domain.batch import UpstreamId
from unhurried.domain.submitting import Created, NoAnswer
from unhurried.settings import UpstreamSettings
from unhurried.upstream import UpstreamTrouble, connect

ID = UpstreamId("msgbatch_1")
BANNER = {"x_unhurried_simulator": "1"}


def test_the_room_is_imported_without_the_sdk() -> None:
    """The socket is ready before the seconds that importing ``anthropic`` takes."""
    check = "import sys, unhurried.upstream; print([m for m in ('anthropic', 'httpx2') if m in sys.modules])"
    command = [sys.executable, "-c", check]
    done = subprocess.run(command, env={"PYTHONPATH": "service"}, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


async def test_the_key_of_the_environment_is_used_where_none_is_set(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key-of-the-environment")
    async with connected(answering(200, page([])), api_key=None) as (upstream, server):
        await upstream.date()
    assert server.calls[0].headers["authorization"] == "Bearer key-of-the-environment"


async def test_no_credential_is_trouble_at_once() -> None:
    with pytest.raises(UpstreamTrouble, match=r"no usable credential|no credential"):
        await connect(UpstreamSettings.model_validate({}), lambda *_: None)


async def test_a_profile_that_is_missing_is_trouble_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_PROFILE", "nowhere")
    with pytest.raises(UpstreamTrouble, match=r"no usable credential.*nowhere"):
        await connect(UpstreamSettings.model_validate({}), lambda *_: None)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, "https://api.anthropic.com"),
        ("https://user:secret@gateway.example/anthropic/", "https://gateway.example/anthropic"),
        ("unix:/run/up.sock", "unix:/run/up.sock"),
        ("http+unix:///run/up.sock", "unix:/run/up.sock"),
        ("http+unix://%2Frun%2Fup.sock", "unix:/run/up.sock"),
    ],
)
async def test_the_base_url_names_the_account_and_no_secret(given: str | None, shown: str) -> None:
    settings = UpstreamSettings.model_validate({"base_url": given, "api_key": "key-for-tests"})
    upstream = await connect(settings, lambda *_: None)
    assert upstream.base_url == shown
    await upstream.aclose()


async def test_a_base_url_with_a_path_keeps_it(connected: Connected) -> None:
    async with connected(answering(200, page([]))) as (_, gateway):
        settings = UpstreamSettings.model_validate(
            {"base_url": f"{gateway.url}/anthropic/", "api_key": "key-for-tests"}
        )
        upstream = await connect(settings, lambda *_: None)
        await upstream.date()
        await upstream.aclose()
    assert gateway.calls[0].target == "/anthropic/v1/messages/batches?limit=1"


async def test_no_proxy_stands_between_this_machine_and_itself(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with connected(answering(200, batch())) as (upstream, _):
        assert isinstance(await create(upstream), Created)
        assert await upstream.retrieve(ID) is not None


async def test_nothing_was_sent_when_the_proxy_refuses(connected: Connected, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(answering(403)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with connected(answering(200), base_url="https://upstream.invalid") as (upstream, _):
            answer = await create(upstream)
    assert isinstance(answer, NoAnswer)
    assert not answer.sent
    assert [call.method for call in proxy.calls] == ["CONNECT"]


async def test_redirected_results_are_read_without_our_credentials(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """httpx2 alone would take ``x-api-key`` along, and what else a gateway needs."""
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "x-api-key: second-key\nx-gateway-token: third-key")
    async with (
        serving(answering(200, b'{"custom_id":"n-1"}\n')) as files,
        connected(answering(307, location=f"{files.url}/file")) as (upstream, server),
    ):
        assert await upstream.first_line(ID) == b'{"custom_id":"n-1"}'
    assert server.calls[0].headers["x-gateway-token"] == "third-key"
    (call,) = files.calls
    assert call.target == "/file"
    assert set(call.headers) <= {"host", "accept", "accept-encoding", "connection", "user-agent"}


async def test_a_redirect_of_anything_else_is_trouble(connected: Connected) -> None:
    async with (
        serving(answering(200, page([]))) as elsewhere,
        connected(answering(307, location=elsewhere.url)) as (upstream, _),
    ):
        with pytest.raises(UpstreamTrouble, match="307"):
            await upstream.list_since(None)
    assert elsewhere.calls == []


async def test_the_results_url_that_a_batch_names_is_not_followed(connected: Connected) -> None:
    async with serving(answering(200)) as foreign:

        async def handle(call: Call) -> None:
            said = batch(processing_status="ended", results_url=f"{foreign.url}/steal")
            await call.answer_json(200, said)

        async with connected(handle) as (upstream, _):
            await upstream.retrieve(ID)
            await upstream.first_line(ID)
    assert foreign.calls == []


async def test_no_key_and_no_prompt_is_logged_even_when_everything_is(
    connected: Connected, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with connected(answering(500, b"oh")) as (upstream, _):
        await create(upstream)
        with pytest.raises(UpstreamTrouble) as raised:
            await upstream.date()
    for text in (caplog.text, raised.value.detail, repr(raised.value)):
        assert "key-for-tests" not in text
        assert "custom_id" not in text


async def test_a_simulator_gets_a_placeholder_and_never_the_real_key(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key-of-the-environment")
    async with connected(answering(200, batch(), **BANNER), simulator=True, api_key=None) as (upstream, server):
        assert isinstance(await create(upstream), Created)
        assert isinstance(await create(upstream), Created)
    assert {call.headers["authorization"] for call in server.calls} == {"Bearer simulator"}
    assert [call.method for call in server.calls] == ["GET", "POST", "POST"]  # it is asked once who it is


async def test_no_work_goes_to_a_server_that_should_be_the_simulator_and_is_not(connected: Connected) -> None:
    async with connected(answering(404), simulator=True, api_key=None) as (upstream, server):
        answer = await create(upstream)
        assert isinstance(answer, NoAnswer)
        assert not answer.sent
        assert "does not say that it is the simulator" in answer.detail
        with pytest.raises(UpstreamTrouble, match="does not say that it is the simulator"):
            await upstream.retrieve(ID)
    assert server.posts == []


async def test_a_simulator_that_is_not_up_yet_is_only_unreachable(connected: Connected) -> None:
    values: dict[str, Any] = {"simulator": True, "api_key": None, "base_url": "http://127.0.0.1:1"}
    async with connected(answering(200), **values) as (upstream, _):
        answer = await create(upstream)
        assert isinstance(answer, NoAnswer)
        assert not answer.sent
        with pytest.raises(UpstreamTrouble) as raised:
            await upstream.date()
    assert not raised.value.reachable


async def test_a_token_that_cannot_be_had_means_that_nothing_was_sent(
    connected: Connected, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Workload identity: the SDK asks for a token when the first call is made, and may fail."""
    (tmp_path / "token").write_text("jwt")
    for name, value in {
        "IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        "FEDERATION_RULE_ID": "fdrl_1",
        "ORGANIZATION_ID": "00000000-0000-0000-0000-000000000000",
    }.items():
        monkeypatch.setenv(f"ANTHROPIC_{name}", value)

    async def handle(call: Call) -> None:
        await call.answer_json(400, {"error": "invalid_grant"})

    async with connected(handle, api_key=None) as (upstream, server):
        answer = await create(upstream)
        with pytest.raises(UpstreamTrouble, match="WorkloadIdentityError"):
            await upstream.date()
    assert isinstance(answer, NoAnswer)
    assert not answer.sent
    assert "/v1/messages/batches" not in {call.target for call in server.calls}
