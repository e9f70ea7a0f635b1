"""The requirements files: exact, hashed, without addresses, and in step with ``pyproject.toml``."""

import re
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.packaging.tree import ROOT, group, pyproject

FILES = sorted((ROOT / "requirements").iterdir())
_PIN = re.compile(r"([a-z0-9-]+)==(\S+)(?: ; [^\\]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")


def test_there_are_four_files() -> None:
    assert [path.name for path in FILES] == ["build.txt", "dev.txt", "run.txt", "uv.txt"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_requirements_file_is_pins_with_hashes_and_nothing_else(path: Path) -> None:
    assert _PIN.sub("", path.read_text("utf-8")) == ""
    assert _pins(path)


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    """Fails when a dependency was changed in ``pyproject.toml`` without ``./dev lock``."""
    run = pyproject()["project"]["dependencies"]
    of_files = {"run.txt": run, "dev.txt": [*run, *group("test"), *group("lint")], "build.txt": group("build")}
    for name, wanted in of_files.items():
        pins = _pins(ROOT / "requirements" / name)
        for requirement in map(Requirement, wanted):
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), (name, requirement)


@pytest.mark.parametrize("name", ["run.txt", "build.txt"])
def test_what_the_image_installs_is_what_was_tested(name: str) -> None:
    assert _pins(ROOT / "requirements" / name).items() <= _pins(ROOT / "requirements/dev.txt").items()


def test_the_build_can_be_installed_without_resolving() -> None:
    """The image installs it with hashes: everything that the builder needs must stand in the file."""
    pins = _pins(ROOT / "requirements/build.txt")
    for name in pins:
        needs = map(Requirement, distribution(name).requires or [])
        assert {
            need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})
        } <= pins.keys()


def _pins(path: Path) -> dict[str, Version]:
    return {pin[1]: Version(pin[2]) for pin in _PIN.finditer(path.read_text("utf-8"))}
