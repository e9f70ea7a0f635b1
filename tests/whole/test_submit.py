"""``submit`` against the real daemon: killed anywhere and run again, its output is complete and nothing paid twice."""

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.whole.stage import Stage

REQUESTS = 1_500
SAMPLE = Path(__file__).parents[2] / "service/unhurried/samples/requests.jsonl"


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    with path.open("w") as file:
        for n in range(REQUESTS):
            model = ("claude-haiku-4-5", "claude-sonnet-5")[n % 2]
            params = {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": f"number {n}"}]}
            file.write(json.dumps({"custom_id": f"r{n}", "params": params}) + "\n")
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def started(scene: Stage, *arguments: object) -> "subprocess.Popen[bytes]":
    """A command in the background; what it says goes to ``submit.log``."""
    with (scene.folder / "submit.log").open("ab") as log:
        command = [sys.executable, "-m", "unhurried", *map(str, arguments)]
        return subprocess.Popen(command, env=scene.environment, stdout=log, stderr=log)


def said(scene: Stage) -> str:
    return (scene.folder / "submit.log").read_text()


def read(output: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.read_bytes().splitlines()]


def assert_complete(output: Path) -> None:
    """One whole line for each request, and no other."""
    assert sorted(str(line["custom_id"]) for line in read(output)) == sorted(f"r{n}" for n in range(REQUESTS))


def assert_confirmed(scene: Stage) -> None:
    with scene.client() as client:
        assert client.status()["deliveries_pending"] == 0


def json_lines(text: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_file_goes_through_and_a_second_run_has_nothing_to_do(scene: Stage, jobs: Path, output: Path) -> None:
    scene.start()
    ran = scene.run("submit", str(jobs), "--output", str(output), "--json")
    assert_complete(output)
    assert set(read(output)[0]) == {"custom_id", "result"}
    assert json.loads(ran.stdout)["outcomes"] == {"succeeded": REQUESTS}
    assert_confirmed(scene)
    before = output.read_bytes()
    again = scene.run("submit", str(jobs), "--output", str(output))
    assert output.read_bytes() == before
    assert f"{REQUESTS:,} answered before" in again.stdout
    scene.assert_created_once()


def test_killed_at_any_moment_and_run_again_the_output_is_complete_and_nothing_is_sent_twice(
    scene: Stage, jobs: Path, output: Path
) -> None:
    scene.start()
    for pause_s in (0.6, 0.8, 1.0, 1.3, 1.7, 2.2, 3.0):  # from before the first line is sent to amid the results
        process = started(scene, "submit", jobs, "--output", output)
        time.sleep(pause_s)  # the moment of the kill is the input here, nothing is waited for
        process.kill()
        process.wait()
    scene.run("submit", str(jobs), "--output", str(output))
    assert_complete(output)
    assert_confirmed(scene)
    scene.assert_created_once()
    scene.assert_sound()


def test_a_daemon_killed_while_submit_waits_is_borne(scene: Stage, jobs: Path, output: Path) -> None:
    scene.start()
    scene.simulator.hold("create_received", times=1)
    waiting = started(scene, "submit", jobs, "--output", output)
    scene.simulator.wait_held("create_received")
    scene.kill()
    scene.until(lambda: "trying again" in said(scene), "submit says that it goes on trying")
    scene.simulator.release("create_received")
    scene.start()
    assert waiting.wait(60) == 0, said(scene)
    assert "the daemon is there again" in said(scene)
    assert_complete(output)
    scene.assert_paid_once()


def test_requests_that_fail_are_exit_3_and_stand_in_the_output(scene: Stage, jobs: Path, output: Path) -> None:
    scene.start()
    params = {"model": "claude-haiku-4-5", "max_tokens": 16, "messages": [{"role": "nobody", "content": "x"}]}
    jobs.write_text(json.dumps({"custom_id": "bad", "params": params}))
    ran = scene.run("submit", str(jobs), "--output", str(output), expect=3)
    assert [line["custom_id"] for line in read(output)] == ["bad"]
    assert "1 errored" in ran.stdout


def test_the_commands_that_look_agree_with_what_was_done(shared: Stage) -> None:
    ran = shared.run("submit", str(SAMPLE), "--wait", "--queue", "labels", "--flush")
    assert len(json_lines(ran.stdout)) == 60
    requests = json_lines(shared.run("requests", "list", "--queue", "labels", "--limit", "1000", "--json").stdout)
    assert [view["state"] for view in requests] == ["succeeded"] * 60
    assert '"succeeded"' in shared.run("requests", "show", requests[0]["id"]).stdout
    assert "too late" in shared.run("requests", "cancel", requests[0]["id"], expect=1).stderr
    first = json_lines(shared.run("batches", "list", "--json").stdout)[0]
    assert first["upstream_id"] in shared.run("batches", "show", first["id"]).stdout
    for command in ("requests list", "batches list", "batches list --open", "status", "doctor", "health --ready"):
        shared.run(*command.split())
    shared.run("requests", "show", "01a202f9-728a-742b-b92d-3e2ba43cf7e3", expect=1)


def test_stdin_can_be_submitted_and_results_pulled_and_acknowledged_by_hand(shared: Stage) -> None:
    piped = subprocess.run(
        [sys.executable, "-m", "unhurried", "submit", "-", "--queue", "piped", "--json"],
        env=shared.environment, input=SAMPLE.read_bytes(), capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    destination = json.loads(piped.stdout)["destination"]
    shared.wait_finished()
    pulled = json_lines(shared.run("results", "pull", "--destination", destination, "--limit", "2").stdout)
    ids = [result["delivery_id"] for result in pulled]
    assert len(ids) == 2
    assert json.loads(shared.run("results", "ack", *ids, "--json").stdout)["confirmed"] == ids
    shared.run("results", "ack", *ids)


def test_what_is_queued_is_canceled_and_the_rest_flushed(scene: Stage) -> None:
    scene.settings["UNHURRIED_FLUSHER__LINGER_S"] = "600"
    scene.start()
    scene.run("submit", str(SAMPLE))
    first = json.loads(scene.run("requests", "list", "--json", "--limit", "1").stdout)
    assert scene.run("requests", "cancel", first["id"]).stdout == "canceled\n"
    assert json.loads(scene.run("flush", "--json").stdout)["requests"] == 59
    assert "not paused" in scene.run("resume").stdout


def test_doctor_names_what_is_wrong_and_exits_1(scene: Stage) -> None:
    scene.settings["UNHURRIED_FLUSHER__LINGER_S"] = "600"
    scene.start()
    scene.run("submit", str(SAMPLE))
    assert "every invariant holds" in scene.run("doctor").stdout
    scene.stop()
    assert "every invariant holds" in scene.run("doctor", "--database", str(scene.database)).stdout
    with closing(sqlite3.connect(scene.database)) as database, database:
        database.execute("update counters set n = n + 1")
    assert "counters are right" in scene.run("doctor", expect=1).stdout
    told = json.loads(scene.run("doctor", "--json", expect=1).stdout)
    assert (told["well"], told["complaints"][0]["invariant"]) == (False, "counters are right")
    down = scene.run("status", expect=69)
    assert "this is what the database says" in down.stderr
    assert "queued" in down.stdout
