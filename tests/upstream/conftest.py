"""The room, connected to servers that misbehave."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic  # noqa: F401  # once, here: it takes seconds, which are no test's fault
import pytest

from tests.upstream.server import Handler, Server, serving
from unhurried.settings import UpstreamSettings
from unhurried.upstream import Upstream, connect

Connected = Callable[..., Any]
"""``async with connected(handler, …settings) as (upstream, server)``."""


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the developer's own environment reaches a test."""
    for name in ("API_KEY", "AUTH_TOKEN", "PROFILE", "BASE_URL", "CUSTOM_HEADERS"):
        monkeypatch.delenv(f"ANTHROPIC_{name}", raising=False)
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path / "anthropic"))


@pytest.fixture
def answers() -> list[tuple[str | None, int | None]]:
    """What ``on_answer`` was told: workspace and date."""
    return []


@pytest.fixture
def connected(answers: list[tuple[str | None, int | None]]) -> Connected:
    """Connect the room to a server that handles each call as told."""

    @asynccontextmanager
    async def connected(
        handler: Handler, *, unix: Path | None = None, tls: Any = None, **settings: Any
    ) -> AsyncIterator[tuple[Upstream, Server]]:
        async with serving(handler, unix=unix, tls=tls) as server:
            values = {"base_url": server.url, "api_key": "key-for-tests", "read_timeout_s": 5, **settings}
            upstream = await connect(UpstreamSettings.model_validate(values), lambda *told: answers.append(told))
            try:
                yield upstream, server
            finally:
                await upstream.aclose()

    return connected


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for ``localhost`` in one file."""
    folder = tmp_path_factory.mktemp("tls")
    both = folder / "both.pem"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    extra = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run(["openssl", *command.split(), *extra], check=True, capture_output=True)
    both.write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return both
