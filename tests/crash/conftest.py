from collections.abc import Iterator

import pytest

from tests.crash.run import Theatre, theatre


@pytest.fixture(scope="session")
def stages() -> Iterator[Theatre]:
    """One simulator for all runs of a worker."""
    with theatre() as opened:
        yield opened
