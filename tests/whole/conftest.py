import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.whole.stage import Stage, stage


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="unhurried-") as name:
        yield Path(name)


@pytest.fixture
def scene(folder: Path) -> Iterator[Stage]:
    """A simulator of its own, and a daemon for the test to start."""
    with stage(folder) as running:
        yield running


@pytest.fixture(scope="module")
def shared() -> Iterator[Stage]:
    """One simulator and one daemon for all tests of a module; each test takes a queue of its own."""
    with tempfile.TemporaryDirectory(prefix="unhurried-") as name, stage(Path(name)) as running:
        running.start()
        yield running
