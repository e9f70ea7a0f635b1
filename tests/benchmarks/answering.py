"""H: the ingest room of the daemon with a store that keeps nothing. ``python -m tests.benchmarks.answering FOLDER``.

It listens at ``FOLDER/s``; the checks of a request are part of it.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.ingest.daemon import running
from unhurried.domain.request import Accepted, NewRequest
from unhurried.domain.states import RequestState


async def answer(folder: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with running(folder) as daemon:
        daemon.store.accept = _forget  # type: ignore[method-assign]
        await stop.wait()


async def _forget(requests: Sequence[NewRequest]) -> Sequence[Accepted]:
    return [Accepted(request.id, RequestState.QUEUED) for request in requests]


if __name__ == "__main__":
    asyncio.run(answer(Path(sys.argv[1])))
