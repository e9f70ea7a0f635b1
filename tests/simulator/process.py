"""A simulator in a process of its own, and what tests say to it besides what the SDK says."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

SERVICE: Final = Path(__file__).parents[2] / "service"
START_S: Final = 20.0
STOP_S: Final = 5.0
LOOKS_MAX: Final = 5_000
DEFAULTS: Final[dict[str, Any]] = {
    "seed": 7,
    "speed": 1.0,
    "clock_offset_s": 0.0,
    "turnaround_s": 60.0,
    "turnaround_by_model_s": {},
    "cancel_takes_s": 5.0,
    "api_keys": [],
    "queue_limit": 500_000,
    "rate_limit": 0,
    "check_params": False,
    "answer_tokens": [50, 400],
}
MODEL: Final = "claude-haiku-4-5"


@dataclass(frozen=True)
class Running:
    """A simulator that has said it is ready."""

    process: subprocess.Popen[str]
    url: str

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop; its exit code. Fails when it takes longer than ``STOP_S``."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_S)
        finally:
            self.process.kill()
            if self.process.stdout is not None:
                self.process.stdout.close()


def spawn(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """``unhurried simulate`` with ``arguments``; the test stops it."""
    command = "import typer; from unhurried.cli.simulate import simulate; typer.run(simulate)"
    return subprocess.Popen(
        [sys.executable, "-c", command, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SERVICE)},
    )


def start(*arguments: str) -> Running:
    """Start a simulator and wait for its ready line."""
    process = spawn(arguments)
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_S)
    line = process.stdout.readline() if ready else ""
    if not line:
        process.kill()
        raise AssertionError(f"the simulator was not ready within {START_S} s")
    return Running(process, json.loads(line)["url"])


@dataclass(frozen=True)
class Simulator:
    """The control face, for tests."""

    url: str
    http: httpx2.AsyncClient

    async def call(self, method: str, path: str, /, **body: Any) -> Any:
        """``/simulator{path}`` with ``body``; its JSON."""
        answer = await self.http.request(method, f"/simulator{path}", json=body if method in ("POST", "PUT") else None)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def reset(self, **settings: Any) -> None:
        """Forget everything; ``settings`` besides the defaults."""
        await self.call("POST", "/reset", **{**DEFAULTS, **settings})

    async def fault(self, name: str, /, **parameters: Any) -> None:
        """Set one fault."""
        await self.call("PUT", f"/faults/{name}", **parameters)

    async def hold(self, point: str, **parameters: Any) -> None:
        """Arm one hold."""
        await self.call("PUT", f"/holds/{point}", **parameters)

    async def held(self, point: str) -> list[dict[str, Any]]:
        """Who is held at ``point``, once somebody is."""
        held: list[dict[str, Any]] = (await self.call("GET", f"/holds/{point}?wait=10"))["held"]
        assert held, f"nobody came to {point}"
        return held

    async def release(self, point: str) -> int:
        """Let everybody at ``point`` go; how many there were."""
        released: int = (await self.call("DELETE", f"/holds/{point}"))["released"]
        return released

    async def advance(self, seconds: float) -> None:
        """Move the simulated clock."""
        await self.call("POST", "/advance", seconds=seconds)

    async def until(self, path: str, reached: Callable[[Any], bool]) -> Any:
        """What ``GET path`` answers once ``reached`` is content with it; at most ``LOOKS_MAX`` round trips."""
        answer = None
        for _ in range(LOOKS_MAX):
            if reached(answer := await self.call("GET", path)):
                return answer
        raise AssertionError(f"{path} did not become what was waited for: {answer}")

    async def ledger(self, split: str = "-") -> Any:
        """The ledger."""
        return await self.call("GET", f"/ledger?split={split}")

    async def ledger_requests(self) -> list[dict[str, Any]]:
        """Every request that was created."""
        answer = await self.http.get("/simulator/ledger/requests")
        return [json.loads(line) for line in answer.text.splitlines()]


def params(text: str = "Hello", **more: Any) -> dict[str, Any]:
    """Params that upstream takes."""
    return {"model": MODEL, "max_tokens": 1000, "messages": [{"role": "user", "content": text}], **more}


def requests(total: int, nonce: str = "n0", **more: Any) -> list[Any]:
    """``total`` requests, each with params of its own. ``Any``: the SDK's type for them is closed."""
    return [{"custom_id": f"{nonce}-{n:05d}", "params": params(f"Hello {n}", **more)} for n in range(total)]
