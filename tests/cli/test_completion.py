"""What the shell offers. It never waits long and never complains, whatever the daemon does."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from unhurried.cli import completion
from unhurried.cli.commands import commands

ANSWERS: dict[str, Any] = {
    "/queue/status": {"requests": {"labels": {}, "nightly": {}}, "destinations": [{"name": "pull:labels"}]},
    "/queue/batches?limit=100": {"batches": [{"id": "b-1", "model": "m-1"}, {"id": "b-2", "model": "m-1"}]},
    "/queue/requests?limit=100": {"requests": [{"id": "r-1"}, {"id": "r-2"}]},
    "/queue/requests?limit=100&queue=labels": {"requests": [{"id": "r-2"}]},
}


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Answers one call, from ``ANSWERS``."""
    at = tmp_path / "s"
    monkeypatch.setenv("UNHURRIED_SOCKET", str(at))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(at))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                target = connection.recv(65_536).split()[1].decode()
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(ANSWERS[target]).encode())

        thread = threading.Thread(target=answer)
        thread.start()
        yield at
        thread.join(10)


def offered(line: str, shell: str = "bash") -> str:
    """What a shell is told when Tab is pressed behind ``line``."""
    words = line.split()
    environment = {
        **os.environ,
        "_UNHURRIED_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - (not line.endswith(" "))),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    ran = subprocess.run(
        [sys.executable, "-m", "unhurried"], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stderr == ""
    return ran.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_are_offered_in_each_shell(shell: str) -> None:
    assert "requests" in offered("unhurried re", shell)
    assert "status" not in offered("unhurried re", shell)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_names_are_those_of_the_daemon_in_each_shell(daemon: Path, shell: str) -> None:
    told = offered("unhurried flush --queue la", shell)
    assert "labels" in told
    assert "nightly" not in told


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("unhurried batches show ", ["b-1", "b-2"]),
        ("unhurried requests show ", ["r-1", "r-2"]),
        ("unhurried requests list --queue labels --batch ", ["b-1", "b-2"]),
        ("unhurried results pull --destination ", ["pull:labels"]),
        ("unhurried flush --model ", ["m-1"]),
    ],
)
def test_ids_and_names_are_offered_where_they_are_wanted(daemon: Path, line: str, names: list[str]) -> None:
    assert offered(line).split() == names


def test_states_need_no_daemon() -> None:
    assert offered("unhurried requests list --state s").split() == ["submitted", "succeeded"]


def test_without_a_daemon_nothing_is_offered_and_nothing_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNHURRIED_SOCKET", str(tmp_path / "none"))
    assert offered("unhurried batches show ").strip() == ""


def test_a_daemon_that_is_slow_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNHURRIED_SOCKET", str(tmp_path / "s"))
    monkeypatch.setattr(completion, "ANSWER_S", 0.05)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "s"))
        deaf.listen()
        context = typer.Context(typer.main.get_command(commands()))
        assert completion.queues(context, "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_it_is_installed_into_the_home_of_the_user(shell: str, tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    subprocess.run(
        [sys.executable, "-m", "unhurried", "--install-completion", shell],
        env=environment, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    installed = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("_UNHURRIED_COMPLETE" in script for script in installed)
