"""The parts of the demo that need no daemon; the whole is in ``tests/whole``."""

import json
import os
import signal
from pathlib import Path

import pytest

from unhurried.cli.children import Children
from unhurried.cli.demo import SAMPLE, SOCKET_PATH_MAX, Place, _folder, repeated
from unhurried.cli.exits import CliError
from unhurried.cli.jobfile import Options, file_source, survey


def test_the_sample_is_a_file_that_submit_takes_with_three_models_and_three_kinds_of_work() -> None:
    assert survey(file_source(SAMPLE), "sample", Options()).lines == 60
    lines = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    assert len({line["params"]["model"] for line in lines}) == 3
    assert {line["custom_id"].partition("-")[0] for line in lines} == {"ticket", "product", "review"}


@pytest.mark.parametrize(("count", "rename"), [(7, False), (60, False), (1_000, True)])
def test_a_sample_is_cut_or_repeated_to_any_count_with_custom_ids_of_their_own(count: int, rename: bool) -> None:
    source = repeated(file_source(SAMPLE), count, rename=rename)
    assert survey(source, "sample", Options()).lines == count
    assert list(source()) == list(source())


def test_nothing_in_the_environment_of_the_demo_daemon_can_reach_anthropic(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-real")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    monkeypatch.setenv("UNHURRIED_UPSTREAM__BASE_URL", "https://api.anthropic.com")
    monkeypatch.setenv("UNHURRIED_FLUSHER__BATCH_REQUESTS_MAX", "50")
    environ = Place(tmp_path).environ()
    assert "sk-real" not in environ.values()
    assert not any("api.anthropic.com" in value for value in environ.values())
    assert environ["UNHURRIED_FLUSHER__BATCH_REQUESTS_MAX"] == "50"


def test_socket_paths_stay_short_below_a_long_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    folder = _folder()
    assert len(os.fsencode(Place(folder).upstream)) <= SOCKET_PATH_MAX
    folder.rmdir()


def test_a_child_that_dies_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        children.start("daemon", ["nonsense"], os.environ)
        children._running[0][1].wait(60)
        with pytest.raises(CliError, match=r"daemon ended with exit code 2(.|\n)*No such command"):
            children.check()


def test_children_are_stopped_when_the_demo_breaks_off(tmp_path: Path) -> None:
    children = Children(tmp_path)
    children.start("simulator", ["simulate", "--socket", str(tmp_path / "s")], os.environ)
    pid = children._running[0][1].pid
    with pytest.raises(KeyboardInterrupt):
        break_off(children)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def break_off(children: Children) -> None:
    with children:
        raise KeyboardInterrupt
