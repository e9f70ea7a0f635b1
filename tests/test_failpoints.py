"""Failpoints: named, described, harmless unless a test arms them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import unhurried
from unhurried import failpoints
from unhurried.failpoints import ANY, POINTS, BadFailpoints, FailpointReached, arm, failpoint
from unhurried.settings import SettingsError, UpstreamSettings, arm_failpoints


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    arm(None)


def placed() -> set[str]:
    """Every name that the code hands to ``failpoint``."""
    names: set[str] = set()
    for path in Path(unhurried.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "failpoint":
                [argument] = node.args
                assert isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                names.add(argument.value)
    return names


def test_every_point_of_the_code_is_described_and_every_described_one_is_there() -> None:
    assert placed() == set(POINTS)


def test_unarmed_points_do_nothing() -> None:
    arm(None)
    assert not failpoints.armed()
    failpoint("writer.committed")


def test_only_the_armed_point_acts_and_only_at_its_hit() -> None:
    arm("writer.committed=raise@3")
    failpoint("writer.begun")
    failpoint("writer.committed")
    failpoint("writer.committed")
    with pytest.raises(FailpointReached, match=r"writer\.committed"):
        failpoint("writer.committed")
    failpoint("writer.committed")


def test_a_star_counts_all_points_together() -> None:
    arm(f"{ANY}=raise@2")
    failpoint("writer.begun")
    with pytest.raises(FailpointReached, match=r"writer\.job"):
        failpoint("writer.job")


def test_notes_tell_every_hit(tmp_path: Path) -> None:
    arm(f"{ANY}=note:{tmp_path / 'hits'}")
    for name in ("writer.begun", "writer.job", "writer.begun"):
        failpoint(name)
    assert (tmp_path / "hits").read_text().split() == ["writer.begun", "writer.job", "writer.begun"]


@pytest.mark.parametrize(
    "text", ["nowhere=kill", "writer.begun", "writer.begun=", "writer.begun=explode", "writer.begun=kill@0",
             "writer.begun=kill@x", "writer.begun=block", "writer.begun=kill:/tmp/x"]
)  # fmt: skip
def test_what_cannot_be_understood_is_refused(text: str) -> None:
    with pytest.raises(BadFailpoints):
        arm(text)


def test_a_daemon_with_a_real_upstream_refuses_failpoints() -> None:
    environ = {failpoints.VARIABLE: "writer.begun=kill"}
    with pytest.raises(SettingsError, match="SIMULATOR"):
        arm_failpoints(UpstreamSettings.model_validate({}), environ)
    arm_failpoints(UpstreamSettings.model_validate({"simulator": True}), environ)
    assert failpoints.armed()


def test_a_misspelt_point_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match=r"UNHURRIED_FAILPOINTS: there is no failpoint 'writer\.begin'"):
        arm_failpoints(UpstreamSettings.model_validate({"simulator": True}), {failpoints.VARIABLE: "writer.begin=kill"})
