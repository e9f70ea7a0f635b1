"""Every command explains itself, answers programs in JSON, and turns a mistake into one line and an exit code."""

import asyncio
import gc
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cli.conftest import FakeQueue, Run, plain
from tests.store.support import NOW, open_shop
from unhurried import __version__
from unhurried.ingest import views
from unhurried.store.records import Status
from unhurried.store.sqlite.place import InstanceLock

COMMANDS = (
    "serve", "config", "demo", "simulate", "submit", "status", "top", "flush", "resume", "doctor", "health", "backup",
    "restore",
    "requests list", "requests show", "requests cancel", "batches list", "batches show", "results pull", "results ack",
    "results stream", "destinations list", "destinations show", "destinations add", "destinations pause",
    "destinations resume", "destinations test", "deliveries list", "deliveries show", "deliveries redeliver",
)  # fmt: skip
UNREACHABLE = (
    "status", "top", "flush", "resume", "requests list", "requests show x", "requests cancel x", "batches list",
    "batches show x", "results pull", "results ack x", "results stream", "destinations list", "destinations show x",
    "destinations add x y", "destinations pause x", "destinations resume x", "destinations test x", "deliveries list",
    "deliveries show x", "deliveries redeliver x",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_page_with_an_example(command: str, run: Run) -> None:
    page = run(*command.split(), "--help")
    assert page.code == 0
    assert command == "simulate" or f"unhurried {command}" in plain(page.out).replace('"', "").replace(",", "")


def test_the_cli_never_imports_the_sdk_and_help_needs_no_http_client() -> None:
    """``anthropic`` takes seconds to import: only the daemon does, after its socket answers."""
    code = (
        "import sys; from unhurried.cli import main; main(['submit', '--help']);"
        "print([m for m in ('anthropic', 'httpx2', 'rich', 'fastapi', 'uvicorn') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_version(run: Run) -> None:
    assert run("--version").out == f"unhurried {__version__}\n"


LEFT_OPEN = "ignore:.*socket:pytest.PytestUnraisableExceptionWarning"
"""httpcore2 (2.16) leaves closing a Unix socket that could not be connected to the garbage collector."""


@pytest.mark.filterwarnings(LEFT_OPEN)
@pytest.mark.parametrize("command", UNREACHABLE)
def test_without_a_daemon_a_command_says_how_to_start_it_and_exits_69(command: str, run: Run, tmp_path: Path) -> None:
    ran = run(*command.split(), "--socket", tmp_path / "none.sock")
    assert ran.code == 69
    assert ran.out == ""
    assert ran.err.startswith("unhurried: no daemon answers at ")
    assert "unhurried serve" in ran.err or "`unhurried status` and `unhurried query`" in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("nonsense", "No such command"),
        ("status --frobnicate", "No such option"),
        ("submit", "Missing argument"),
        ("submit file --priority 10", "less than or equal to 9"),
        ("demo --count 0", "greater than or equal to 1"),
        ("demo /nowhere/at/all.jsonl", "No such file"),
        ("doctor --database /nowhere/at/all.db", "there is no database"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_2(arguments: str, says: str, run: Run) -> None:
    ran = run(*arguments.split())
    assert ran.code == 2
    assert ran.err.startswith("unhurried: ")
    assert says in ran.err
    assert ran.err.count("\n") == 1


def test_a_misspelt_setting_is_exit_78_and_names_the_right_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNHURRIED_FLUSHER__LINGRE_S", "3")
    for command in ("serve", "config"):
        ran = run(command)
        assert ran.code == 78
        assert "did you mean UNHURRIED_FLUSHER__LINGER_S?" in ran.err


def test_config_shows_where_a_value_comes_from_and_never_a_secret(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNHURRIED_UPSTREAM__API_KEY", "sk-very-secret")
    monkeypatch.setenv("UNHURRIED_FLUSHER__LINGER_S", "7")
    monkeypatch.setenv("UNHURRIED_UPSTREAM__BASE_URL", "https://me:hunter2@example.org")
    text, shown = run("config"), run("config", "--json")
    for ran in (text, shown):
        assert ran.code == 0
        assert "sk-very-secret" not in ran.out
        assert "hunter2" not in ran.out
    settings = {entry["variable"]: entry for entry in json.loads(shown.out)["settings"]}
    assert settings["UNHURRIED_UPSTREAM__API_KEY"]["value"] == "set"
    assert settings["UNHURRIED_FLUSHER__LINGER_S"]["value"] == 7
    assert settings["UNHURRIED_FLUSHER__LINGER_S"]["source"] == "environment"
    assert settings["UNHURRIED_POLLER__INTERVAL_MIN_S"]["source"] == "default"
    assert json.loads(shown.out)["upstream"]["credential"] == "UNHURRIED_UPSTREAM__API_KEY"


@pytest.mark.parametrize(
    ("variable", "kind"),
    [("ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY"), ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_AUTH_TOKEN"), (None, None)],
)
def test_config_names_the_kind_of_credential(
    variable: str | None, kind: str | None, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "hush")
    ran = run("config", "--json")
    upstream = json.loads(ran.out)["upstream"]
    assert upstream["credential"] == kind
    assert (upstream["problem"] is None) == (kind is not None)
    assert "hush" not in ran.out


def test_a_refusal_of_the_daemon_is_told_in_its_words_with_its_code(run: Run, queue: FakeQueue) -> None:
    ran = run("requests", "show", "0198f0c2-5b1e-7c3a-9d5e-0a6f6f3f2c11")
    assert (ran.code, ran.err) == (1, "unhurried: Not found [not_found]\n")


def test_what_is_no_id_is_looked_for_as_a_custom_id(run: Run, queue: FakeQueue) -> None:
    ran = run("requests", "show", "page-7")
    assert ran.code == 1
    assert "`unhurried requests list --custom-id page-7`" in ran.err and ran.err.count("\n") == 1


def test_an_answer_that_is_no_json_is_no_traceback(run: Run, queue: FakeQueue) -> None:
    queue.broken = [lambda: httpx2.Response(200, content=b"<html>")]
    ran = run("status")
    assert ran.code == 1
    assert "Traceback" not in ran.err


def test_a_bug_has_an_exit_code_of_its_own(run: Run, queue: FakeQueue) -> None:
    queue.status = {}
    ran = run("status")
    assert ran.code == 70
    assert "this is a bug in unhurried" in ran.err


def test_status_shows_queues_a_paused_account_and_what_to_do(run: Run, queue: FakeQueue) -> None:
    queue.status = {
        "requests": {"labels": {"queued": 3, "succeeded": 12_000}},
        "open_batches": [],
        "account": {
            "base_url": "https://api.example",
            "paused": True,
            "paused_until": None,
            "pause_reason": "wrong key",
        },
        "deliveries_pending": 2,
    }
    ran = run("status")
    assert ran.code == 0
    assert "labels" in ran.out
    assert "12,000" in ran.out
    assert "PAUSED until `unhurried resume`: wrong key" in ran.out
    assert "\x1b" not in ran.out
    assert json.loads(run("status", "--json").out) == queue.status


@pytest.mark.filterwarnings(LEFT_OPEN)
def test_status_of_a_daemon_that_is_down_is_read_from_the_database(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = asyncio.run(_filled(tmp_path / "a.db"))
    monkeypatch.setenv("UNHURRIED_DATABASE", str(tmp_path / "a.db"))
    monkeypatch.setenv("UNHURRIED_SOCKET", str(tmp_path / "none.sock"))
    ran = run("status")
    assert ran.code == 69
    assert "the daemon is not running; this is what the database says" in ran.err
    assert ran.err.startswith("unhurried: no daemon answers at ")
    assert re.search(r"^default +1 +0 +2 ", ran.out, re.MULTILINE)
    assert re.search(r"^daemon +not running$", ran.out, re.MULTILINE)
    shown = run("status", "--json")
    assert shown.code == 69
    daemon_would_say = views.status(told, None)  # type: ignore[arg-type]  # of itself, nothing
    says, would_say = json.loads(shown.out), json.loads(views.encode(daemon_would_say))
    for answer in (says, would_say):
        del answer["storage"]  # the log was emptied at the end, and others write to the disk as well
    assert says == {**would_say, "held_by": None, "database": str(tmp_path / "a.db")}


async def _filled(path: Path) -> Status:
    """A database with one request that waits and two that were sent, left by a daemon."""
    shop = await open_shop(path)
    await shop.some(3)
    await shop.submit("u1", requests_max=2)
    await shop.store.pause_account("wrong key", NOW, "test", NOW)
    told = await shop.store.status()
    await shop.close()
    return told


@pytest.mark.filterwarnings(LEFT_OPEN)
def test_a_daemon_that_holds_the_database_is_not_called_down_because_the_socket_is_wrong(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(_filled(tmp_path / "a.db"))
    monkeypatch.setenv("UNHURRIED_DATABASE", str(tmp_path / "a.db"))
    lock = InstanceLock(tmp_path / "a.db")
    lock.acquire()
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "left.sock"))
    ran = run("status", "--socket", tmp_path / "left.sock")
    lock.release()
    assert ran.code == 69
    assert f"a daemon (pid {os.getpid()}) holds the database, but does not answer" in ran.err
    assert "connection refused" in ran.err and "not running" not in ran.out + ran.err
    assert "UNHURRIED_SOCKET" in ran.out


def test_a_socket_that_may_not_be_used_is_called_that(run: Run, queue: FakeQueue) -> None:
    def forbidden() -> httpx2.Response:
        raise httpx2.ConnectError("no") from PermissionError(13, "Permission denied")

    queue.broken = [forbidden]
    ran = run("queues", "list")
    assert ran.code == 69
    assert "no permission to connect to" in ran.err and "UNHURRIED_INGEST__SOCKET_MODE" in ran.err
    assert "serve" not in ran.err


@pytest.mark.filterwarnings(LEFT_OPEN)
def test_with_nothing_at_the_default_places_the_settings_are_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("UNHURRIED_SOCKET", "UNHURRIED_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("unhurried.settings._place", lambda *_: tmp_path)
    ran = run("status")
    assert (ran.code, ran.out, ran.err.count("\n")) == (69, "", 1)
    assert "UNHURRIED_SOCKET and UNHURRIED_DATABASE" in ran.err and "`unhurried config`" in ran.err
    for command in ("query", "doctor"):
        ran = run(command)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert "UNHURRIED_DATABASE" in ran.err and "`unhurried config`" in ran.err and "serve" not in ran.err
    ran = run("queues", "list")
    assert (ran.code, "UNHURRIED_SOCKET" in ran.err) == (69, True)


@pytest.mark.parametrize("command", ["query", "doctor"])
def test_a_folder_is_no_database(command: str, run: Run, tmp_path: Path) -> None:
    ran = run(command, "--database", tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert f"{tmp_path} is a folder" in ran.err


def test_a_reader_that_goes_away_is_exit_141() -> None:
    many = "with recursive c(x) as (select 1 union all select x + 1 from c where x < 200000) select x from c"
    read, write = os.pipe()
    code = f"from unhurried.cli import main; import sys; sys.exit(main(['query', {many!r}, '--limit', '200000']))"
    with tempfile.TemporaryDirectory() as folder:
        environ = os.environ | {"UNHURRIED_DATABASE": f"{folder}/a.db"}
        asyncio.run(_filled(Path(folder) / "a.db"))
        os.close(read)
        ran = subprocess.run(
            [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, env=environ, check=False, timeout=60
        )
        os.close(write)
    assert (ran.returncode, ran.stderr) == (141, b"")


def test_a_suggestion_ends_as_a_question(run: Run) -> None:
    assert (
        run("statsu").err
        == "unhurried: No such command 'statsu'. Did you mean 'status'? `unhurried --help` shows how\n"
    )


@pytest.mark.filterwarnings(LEFT_OPEN)
def test_status_says_so_when_neither_the_daemon_nor_the_database_answers(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.db").write_bytes(b"no database" * 1000)
    monkeypatch.setenv("UNHURRIED_DATABASE", str(tmp_path / "a.db"))
    ran = run("status", "--socket", tmp_path / "none.sock")
    assert (ran.code, ran.out) == (69, "")
    assert "and the database cannot be read" in ran.err
    assert ran.err.count("\n") == 1
    gc.collect()  # what is left open is noticed here, and not by a test below


def test_a_daemon_that_does_not_answer_in_time_is_not_called_down(
    run: Run, queue: FakeQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(_filled(tmp_path / "a.db"))
    monkeypatch.setenv("UNHURRIED_DATABASE", str(tmp_path / "a.db"))

    def late() -> httpx2.Response:
        raise httpx2.ReadTimeout("late")

    queue.broken = [late]
    ran = run("status")
    assert (ran.code, ran.out) == (69, "")
    assert "not running" not in ran.err


def test_a_request_is_shown_with_its_attempts_and_its_events_oldest_first(run: Run, queue: FakeQueue) -> None:
    view = dict.fromkeys(
        ("custom_id", "not_before", "waits_until", "cancel_requested_at", "finished_at", "metadata"), None
    ) | {"id": "r", "state": "succeeded", "queue": "q", "model": "m", "priority": 0, "params_bytes": 9,
         "accepted_at": "2026-11-22T08:00:00Z", "deadline_at": "2026-11-23T08:00:00Z", "attempts": 1, "attempts_max": 3,
         "generation": 1, "delivery": "pending", "deliver_to": "pull:q", "batch": "b2"}  # fmt: skip
    attempt = {"batch": "b1", "upstream_batch": None, "custom_id": "n1-r", "state": "superseded", "won": False,
               "ended_at": "2026-11-22T08:01:00Z", "error_type": None, "stop_reason": None, "input_tokens": None,
               "output_tokens": None}  # fmt: skip
    won = {"batch": "b2", "upstream_batch": "u2", "custom_id": "n2-r", "state": "succeeded", "won": True,
           "stop_reason": "end_turn", "input_tokens": 3_000, "output_tokens": 5}  # fmt: skip
    attempts = [attempt, attempt | won]
    events = [{"at": f"2026-11-22T08:0{n}:00Z", "what": what, "detail": None} for n, what in enumerate(("one", "two"))]
    batch = {"id": "b2", "state": "collected", "upstream_id": "u2"}
    answers: list[dict[str, Any]] = [view, {"attempts": attempts}, {"events": events}, batch]

    def answer(told: dict[str, Any]) -> Callable[[], httpx2.Response]:
        return lambda: httpx2.Response(200, json=told)

    queue.broken = [answer(told) for told in answers]
    ran = run("requests", "show", "r")
    assert ran.code == 0
    wanted = (
        "b2 (collected, upstream u2)",
        "pending to pull:q",
        "attempt 1: superseded; 2026-11-22T08:01:00Z; batch b1\n",
        "attempt 2: succeeded, the outcome; 2026-11-22T08:01:00Z; end_turn; 3,000 tokens in, 5 out; batch b2; n2-r",
        "08:00:00Z  one",
        "08:01:00Z  two",
    )
    places = [ran.out.find(text) for text in wanted]
    assert -1 not in places and places == sorted(places)
    queue.broken = [answer(told) for told in answers]
    shown = json.loads(run("requests", "show", "r", "--json").out)
    assert (shown["attempts_view"], shown["events"], shown["batch_view"]) == (attempts, events, batch)
