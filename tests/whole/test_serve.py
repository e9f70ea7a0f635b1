"""The daemon as an operator meets it: what it refuses to start on, how it stops, what can be read while it runs."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.whole.stage import Stage


def serve(scene: Stage, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the daemon until it ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "unhurried", "serve"],
        env={**scene.environment, **settings}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """It ended with this code, one line that has these words, and no traceback."""
    assert done.returncode == code, (done.returncode, done.stderr)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("unhurried: ")
    for word in words:
        assert word in last, last
    assert "Traceback" not in done.stderr


def test_without_an_upstream_it_says_what_to_set(scene: Stage) -> None:
    done = serve(scene, UNHURRIED_UPSTREAM__SIMULATOR="false", HOME=str(scene.folder))
    refused(done, 78, "ANTHROPIC_API_KEY", "UNHURRIED_UPSTREAM__SIMULATOR=true")
    assert not scene.database.exists()


def test_a_misspelt_variable_is_an_error_that_names_the_right_one(scene: Stage) -> None:
    refused(serve(scene, UNHURRIED_FLUSHER__LINGERS="3"), 78, "UNHURRIED_FLUSHER__LINGER_S")


def test_what_kubernetes_adds_for_a_service_of_that_name_is_no_mistake(scene: Stage) -> None:
    scene.settings.update(UNHURRIED_PORT="tcp://10.0.0.1:80", UNHURRIED_SERVICE_HOST="10.0.0.1")
    scene.start()
    assert scene.stop() == 0


def test_a_second_daemon_is_told_who_holds_the_database(scene: Stage) -> None:
    scene.start()
    assert scene.daemon is not None
    refused(serve(scene), 75, f"pid {scene.daemon.pid}")


def test_a_database_from_a_newer_version_is_left_untouched(scene: Stage) -> None:
    scene.start()
    scene.stop()
    db = sqlite3.connect(scene.database)
    db.execute("insert into schema_migrations values (9999, 'later', 'x', '99.0', 0)")
    db.commit()
    db.close()
    before = scene.database.read_bytes()
    refused(serve(scene), 65, "newer version")
    assert scene.database.read_bytes() == before


def test_a_file_that_is_no_database_is_not_touched(scene: Stage) -> None:
    scene.database.write_text("my notes, not yours\n" * 100)
    refused(serve(scene), 65, str(scene.database))
    assert scene.database.read_text().startswith("my notes")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_named(scene: Stage) -> None:
    locked = scene.folder / "locked"
    locked.mkdir(mode=0o500)
    refused(serve(scene, UNHURRIED_DATABASE=str(locked / "u.db")), 73, str(locked))


def test_a_folder_that_cannot_be_made_is_named(scene: Stage) -> None:
    refused(serve(scene, UNHURRIED_DATABASE="/proc/nowhere/u.db"), 73, "/proc/nowhere")


def test_a_socket_path_that_is_too_long_is_refused_with_the_limit(scene: Stage) -> None:
    long = scene.folder / ("x" * 120) / "s.sock"
    refused(serve(scene, UNHURRIED_SOCKET=str(long)), 73, "107")


def test_a_socket_that_is_a_file_of_somebody_is_not_removed(scene: Stage) -> None:
    scene.socket.write_text("mine")
    refused(serve(scene), 73, str(scene.socket))
    assert scene.socket.read_text() == "mine"


def test_a_socket_that_another_program_listens_on_is_not_taken(scene: Stage) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(scene.socket))
        other.listen()
        refused(serve(scene), 75, str(scene.socket))


def test_the_socket_and_the_database_are_closed_to_others(scene: Stage) -> None:
    scene.start()
    assert scene.socket.stat().st_mode & 0o777 == 0o660
    for file in scene.folder.glob("u.db*"):
        assert file.stat().st_mode & 0o077 == 0, file


def test_another_upstream_is_refused_while_work_is_open(scene: Stage) -> None:
    scene.settings["UNHURRIED_FLUSHER__LINGER_S"] = "3600"
    scene.start()
    scene.submit(3)
    scene.stop()
    refused(serve(scene, UNHURRIED_UPSTREAM__BASE_URL="http://127.0.0.1:1"), 65, "open work")


def test_a_term_signal_ends_it_in_order_and_the_work_goes_on_later(scene: Stage) -> None:
    scene.start()
    ids = scene.submit(20)
    assert scene.stop() == 0
    assert not scene.socket.exists()
    scene.start()
    scene.wait_finished()
    assert set(scene.pull_all()) == set(ids)
    scene.assert_created_once()


def test_a_second_signal_ends_it_at_once(scene: Stage) -> None:
    scene.settings["UNHURRIED_GRACE_S"] = "60"
    scene.start()
    scene.simulator.hold("create_received")
    scene.submit(5)
    scene.simulator.wait_held("create_received")
    assert scene.daemon is not None
    scene.daemon.send_signal(signal.SIGTERM)
    scene.until(lambda: "daemon.stopping" in scene.tail(), "it heard the first signal")
    scene.daemon.send_signal(signal.SIGTERM)
    assert scene.daemon.wait(10) == 128 + signal.SIGTERM
    scene.daemon = None


def test_a_create_that_outlasts_the_grace_is_settled_at_the_next_start(scene: Stage) -> None:
    scene.settings["UNHURRIED_GRACE_S"] = "0.5"
    scene.start()
    scene.simulator.hold("create_received", times=1)
    ids = scene.submit(5)
    scene.simulator.wait_held("create_received")
    assert scene.stop() == 0
    scene.simulator.release("create_received")
    scene.start()
    scene.wait_finished()
    assert set(scene.pull_all()) == set(ids)
    scene.assert_created_once()


def test_the_views_can_be_read_with_the_sqlite_shell_while_it_works(scene: Stage) -> None:
    scene.start()
    ids = scene.submit(30)
    views = ["v_requests", "v_queue", "v_open_batches", "v_unknown_batches", "v_events", "v_batches", "v_deliveries",
             "v_attempts", "v_counts", "v_account"]  # fmt: skip
    db = sqlite3.connect(f"file:{scene.database}?mode=ro", uri=True)  # what `sqlite3 -readonly` does
    try:
        for view in views:
            db.execute(f"select * from {view}").fetchall()
        assert db.execute("select count(*) from v_requests").fetchone()[0] == len(ids)
    finally:
        db.close()
    scene.wait_finished()
    assert set(scene.pull_all()) == set(ids)
    scene.assert_sound()


def test_a_wrong_key_pauses_the_account_visibly_and_loses_nothing(folder: Path) -> None:
    from tests.whole.stage import stage

    with stage(folder) as scene:
        scene.simulator.reset(api_keys=["the-right-one"])
        scene.settings["UNHURRIED_UPSTREAM__API_KEY"] = "a-wrong-one"
        scene.start()
        ids = scene.submit(5)
        with scene.client() as client:
            account = scene.until(
                lambda: (found := client.status()["account"]) and found["paused"] and found, "a pause"
            )
        assert "401" in account["pause_reason"]
        assert "a-wrong-one" not in scene.tail(1_000)
        scene.stop()
        scene.settings["UNHURRIED_UPSTREAM__API_KEY"] = "the-right-one"
        scene.start()
        scene.wait_finished()
        assert set(scene.pull_all()) == set(ids)
        scene.assert_created_once()
        assert "the-right-one" not in scene.tail(1_000)


def test_prompts_and_keys_are_not_in_the_log_and_keys_not_in_the_database(scene: Stage) -> None:
    scene.settings["UNHURRIED_UPSTREAM__API_KEY"] = "sk-ant-very-secret"
    scene.settings["UNHURRIED_LOG__LEVEL"] = "debug"
    scene.start()
    scene.submit(3, text="a prompt nobody should log")
    scene.wait_finished()
    log = scene.tail(10_000)
    assert "a prompt nobody should log" not in log
    assert "very-secret" not in log
    for line in log.splitlines():
        json.loads(line)
    scene.stop()
    assert b"very-secret" not in scene.database.read_bytes()
