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
