"""The requirements files: exact, hashed, without addresses, and in step with ``pyproject.toml``."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.packaging.tree import ROOT, pyproject

FILES = sorted((ROOT / "requirements").iterdir())
_PIN = re.compile(r"([a-z0-9-]+)==(\S+)(?: ; [^\\]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")


def test_there_are_three_files() -> None:
    assert [path.name for path in FILES] == ["dev.txt", "run.txt", "uv.txt"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_requirements_file_is_pins_with_hashes_and_nothing_else(path: Path) -> None:
    assert _PIN.sub("", path.read_text("utf-8")) == ""
    assert _pins(path)


@pytest.mark.parametrize(
    ("path", "groups"), [("run.txt", ()), ("dev.txt", ("test", "lint"))], ids=["run.txt", "dev.txt"]
)
def test_every_dependency_is_pinned_within_its_bounds(path: str, groups: tuple[str, ...]) -> None:
    """Fails when a dependency was changed in ``pyproject.toml`` without ``./dev lock``."""
    project = pyproject()
    wanted = list(project["project"]["dependencies"])
    for group in groups:
        wanted += project["dependency-groups"][group]
    pins = _pins(ROOT / "requirements" / path)
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_what_runs_is_what_was_tested() -> None:
    assert _pins(ROOT / "requirements/run.txt").items() <= _pins(ROOT / "requirements/dev.txt").items()


def _pins(path: Path) -> dict[str, Version]:
    return {pin[1]: Version(pin[2]) for pin in _PIN.finditer(path.read_text("utf-8"))}
