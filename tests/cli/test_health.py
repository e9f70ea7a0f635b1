"""``unhurried health``: quick, a plain yes or no, and never a traceback, whatever answers on the socket."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run

Serve = Callable[[bytes], Path]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Give it an answer; it listens, answers one call with it, and remembers what was asked in ``tmp_path/asked``."""
    threads: list[threading.Thread] = []
    listeners: list[socket.socket] = []

    def serve_(answer: bytes) -> Path:
        listener = socket.socket(socket.AF_UNIX)
        listeners.append(listener)
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def answer_once() -> None:
            connection, _ = listener.accept()
            with connection:
                (tmp_path / "asked").write_bytes(connection.recv(65_536))
                connection.sendall(answer)

        threads.append(threading.Thread(target=answer_once))
        threads[-1].start()
        return tmp_path / "s"

    yield serve_
    for thread in threads:
        thread.join(10)
    for listener in listeners:
        listener.close()


def http(status: str, body: object) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\r\n{json.dumps(body)}".encode()


@pytest.mark.parametrize(
    ("options", "path", "says"),
    [([], "/healthz", "healthy"), (["--live"], "/healthz", "healthy"), (["--ready"], "/readyz", "ready")],
)
def test_a_yes_is_exit_0(options: list[str], path: str, says: str, run: Run, serve: Serve) -> None:
    at = serve(http("200 OK", {"status": "ok"}))
    ran = run("health", *options, "--socket", at)
    assert (ran.code, ran.out) == (0, f"{says}\n")
    assert (at.parent / "asked").read_bytes().startswith(f"GET {path} HTTP/1.1\r\n".encode())


def test_a_no_is_exit_1_and_says_why(run: Run, serve: Serve) -> None:
    ran = run("health", "--socket", serve(http("503 Service Unavailable", {"detail": "writer hangs"})))
    assert (ran.code, ran.out, ran.err) == (1, "", "unhurried: not healthy: writer hangs\n")


def test_json_is_what_the_daemon_said(run: Run, serve: Serve) -> None:
    told = {"ready": False, "reason": "draining"}
    ran = run("health", "--ready", "--json", "--socket", serve(http("503 Service Unavailable", told)))
    assert (ran.code, json.loads(ran.out)) == (1, told)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\n\r\n<html>", b"HTTP/1.1\r\n\r\n"])
def test_what_is_not_the_daemon_is_a_no(answer: bytes, run: Run, serve: Serve) -> None:
    ran = run("health", "--socket", serve(answer))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("unhurried: not healthy: ")
    assert ran.err.count("\n") == 1


def test_without_a_daemon_it_is_a_no_because_docker_knows_only_0_and_1(run: Run, tmp_path: Path) -> None:
    ran = run("health", "--socket", tmp_path / "none.sock")
    assert ran.code == 1
    assert "no daemon answers at " in ran.err


def test_one_that_does_not_answer_in_time_is_a_no(run: Run, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "s"))
        deaf.listen()
        ran = run("health", "--timeout", "0.1", "--socket", tmp_path / "s")
    assert ran.code == 1
    assert "timed out" in ran.err


@pytest.mark.parametrize(
    "options", [["--ready", "--live"], ["--timeout", "soon"], ["--timeout", "0"], ["--colour"], ["--socket"]]
)
def test_a_mistake_is_exit_2_as_everywhere(options: list[str], run: Run) -> None:
    assert run("health", *options).code == 2


def test_the_usual_way_answers_alike(run: Run, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick way is for plain options only; one that it does not read (``--socket=…``) goes through typer."""
    ran = run("health", f"--socket={serve(http('200 OK', {'ready': True}))}", "--ready")
    assert (ran.code, ran.out) == (0, "ready\n")


def test_a_probe_imports_next_to_nothing() -> None:
    code = (
        "import sys; from unhurried.cli import main; main(['health', '--socket', '/nowhere']);"
        "print([m for m in ('typer', 'pydantic', 'msgspec', 'httpx2', 'rich', 'asyncio', 'ssl') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.splitlines()[-1] == "[]"
