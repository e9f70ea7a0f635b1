"""The example application, run for real against a daemon and a simulator."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.deployment import DEPLOY, compose
from tests.whole.stage import Stage, stage

APPLICATION = DEPLOY / "application.py"
COUNTRIES = ["Kenya", "Norway", "Peru"]


@pytest.fixture
def scene() -> Iterator[Stage]:
    """In a folder with a short name: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="unhurried-") as name, stage(Path(name)) as running:
        running.start()
        yield running


def test_it_gets_its_answers_confirms_them_and_asks_nothing_twice(scene: Stage) -> None:
    first, second = run(scene), run(scene)
    assert [line.split(":")[0] for line in first[:3]] == COUNTRIES
    assert all(": asked, request " in line for line in first[:3])
    assert sorted(line.split(":")[0] for line in first[3:]) == COUNTRIES
    assert all("made by a simulator" in line for line in first[3:])
    assert [line.replace("asked before", "asked") for line in second[:3]] == first[:3]
    assert sorted(second[3:]) == sorted(first[3:])
    with scene.client() as client:
        assert client.status()["deliveries_pending"] == 0
    assert len(scene.simulator.created()) == len(COUNTRIES)


def test_killed_before_the_answers_came_the_next_run_gets_them(scene: Stage) -> None:
    scene.simulator.hold("results_start")
    started = subprocess.Popen([sys.executable, str(APPLICATION)], env=scene.environment, stdout=subprocess.PIPE)
    scene.simulator.wait_held("results_start")
    started.kill()
    started.communicate()
    scene.simulator.release("results_start")
    assert sorted(line.split(":")[0] for line in run(scene)[3:]) == COUNTRIES


def test_compose_runs_this_file_under_a_user_of_its_own() -> None:
    service = compose()["application"]
    bound = {mount["source"]: mount["target"] for mount in service["volumes"] if mount["type"] == "bind"}
    assert service["entrypoint"] == ["python", bound[str(APPLICATION)]]
    assert service["user"] == "1000:1000"
    assert service["depends_on"]["unhurried"]["condition"] == "service_healthy"


def run(scene: Stage) -> list[str]:
    ran = subprocess.run(
        [sys.executable, str(APPLICATION)],
        env=scene.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()
