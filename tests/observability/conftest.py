from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.ingest.daemon import Daemon, running


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with running(tmp_path) as daemon:
        yield daemon
