"""Steering a running daemon by its commands: queues, drain, retries, erasing; and kills in the midst of it."""

import json
import sqlite3
import subprocess
import sys

from tests.whole.stage import Stage


def test_a_queue_lingers_and_fills_its_batches_as_it_says(scene: Stage) -> None:
    scene.start()
    scene.run("queues", "set", "slow", "linger_s=3600")
    scene.run("queues", "set", "small", "batch_requests_max=4", "priority=3")
    slow = scene.submit(3, "slow")
    small = scene.submit(10, "small")
    with scene.client() as client:
        scene.until(lambda: client.get(small[-1])["state"] == "succeeded", "the small ones are through")
        assert client.get(slow[0])["state"] == "queued"
        sizes = sorted(batch["requests"] for batch in client.batches())
        assert sum(sizes) == 10 and max(sizes) == 4
        assert client.get(small[0])["priority"] == 3
    scene.kill()
    scene.start()  # settings are read from the disk
    shown = json.loads(scene.run("queues", "show", "small", "--json").stdout)
    assert shown["effective"]["batch_requests_max"] == 4
    with scene.client() as client:
        assert client.get(scene.submit(1, "small")[0])["priority"] == 3
    scene.assert_sound()


def test_a_drained_daemon_finishes_its_work_and_stops(scene: Stage) -> None:
    scene.settings["UNHURRIED_FLUSHER__LINGER_S"] = "3600"
    scene.start()
    ids = scene.submit(20)
    done = scene.run("drain", "--stop", "--timeout", "60")
    assert "nothing is left; the daemon stops" in done.stdout
    assert scene.daemon is not None
    assert scene.daemon.wait(20) == 0
    scene.daemon = None
    db = sqlite3.connect(scene.database)
    assert db.execute("select count(*) from boots where stopped_at is not null").fetchone() == (1,)
    assert db.execute("select state, count(*) from v_deliveries group by state").fetchall() == [("pending", len(ids))]
    db.close()
    scene.assert_paid_once()
    scene.assert_sound()


def test_a_drain_that_cannot_end_says_why_and_is_over_after_a_restart(scene: Stage) -> None:
    scene.start()
    scene.run("queues", "set", "held", "priority=1")  # there is none of that name yet, and a pause makes none
    scene.run("queues", "pause", "held", "--reason", "the prompt is wrong")
    scene.submit(3, "held")
    done = scene.run("drain", "--wait", "--timeout", "1", expect=4)
    assert "left: 3 queued" in done.stdout and "the prompt is wrong" in done.stdout
    scene.run("requests", "list", "--json")
    with scene.client() as client:
        assert client.ready()[0] is False
    scene.kill()
    scene.start()
    scene.run("queues", "resume", "held")
    scene.wait_finished()
    scene.assert_sound()


def test_a_retry_that_is_killed_midway_goes_on_when_it_is_run_again(scene: Stage) -> None:
    """What was queued again is queued, the rest is not, and nothing is broken or paid for twice in a generation."""
    scene.simulator.fault("errored_some", type="invalid_request_error")
    scene.start()
    scene.submit(3_000)
    scene.wait_finished()
    scene.simulator.call("DELETE", "/faults/errored_some")
    counted = scene.run("requests", "retry", "--all")
    assert "3,000 would be queued again" in counted.stderr
    scene.run("queues", "pause", "default")
    with scene.client() as client:
        command = [sys.executable, "-m", "unhurried", "requests", "retry", "--all", "--yes"]
        process = subprocess.Popen(command, env=scene.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        scene.until(lambda: client.status()["requests"]["default"].get("queued"), "some were queued again")
        scene.kill()
        assert process.wait(30) == 69
    scene.start()
    scene.assert_sound()
    with scene.client() as client:
        counts = client.status()["requests"]["default"]
    assert counts["queued"] + counts.get("errored", 0) == 3_000
    scene.run("requests", "retry", "--all", "--yes")
    scene.run("queues", "resume", "default")
    scene.wait_finished()
    results = scene.pull_all()
    assert len(results) == 3_000 and {result["type"] for result in results.values()} == {"succeeded"}
    scene.assert_sound()


def test_an_erased_request_leaves_no_trace_in_the_files(scene: Stage) -> None:
    scene.start()
    [id, other] = scene.submit(2, "private", text="Wilhelmina", metadata={"of": "Wilhelmina"})
    scene.wait_finished()
    assert "nothing was erased yet" in scene.run("requests", "erase", id).stderr
    for one in (id, other):
        scene.run("requests", "erase", one, "--yes")
    scene.until(
        lambda: not any(b"Wilhelmina" in file.read_bytes() for file in scene.folder.glob("u.db*")), "no trace", 10
    )
    assert scene.pull_all("private") == {}
    shown = json.loads(scene.run("requests", "show", id, "--json").stdout)
    assert shown["erased_at"] is not None
    scene.assert_sound()
