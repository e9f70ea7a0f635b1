"""More callers, connections and requests than anybody should send: refused in so many words, in bounded memory."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.whole.stage import Stage, lines

CROWD = 10_000
OWN_FILES = 500
MEMORY_OF_A_CONNECTION = 24_000
"""Bytes of the daemon's memory that an idle or half-begun connection may cost."""
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process holds the other end of each connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CROWD + OWN_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this user may open {hard} files, {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ten_thousand_idle_and_slow_connections_neither_stop_nor_bloat_it(scene: Stage, many_files: None) -> None:
    scene.start()
    ids = scene.submit(200, text="before")
    before = memory(scene)
    with crowd(scene.socket, CROWD) as connections:
        for number, connection in enumerate(connections):
            if number % 2:  # half a head, and then nothing
                connection.sendall(b"POST /queue/requests HTTP/1.1\r\nhost: slow\r\nx-slow: ")
        ids += scene.submit(200, text="beside")
        with scene.client() as client:
            assert client.ready()[0]
        scene.wait_finished()
        assert set(scene.pull_all()) == set(ids)
        grown = memory(scene) - before
    assert grown < CROWD * MEMORY_OF_A_CONNECTION, f"{grown / CROWD:.0f} bytes a connection"
    with scene.client() as client:
        assert client.ready()[0]


def test_a_flood_over_the_limit_is_told_to_come_back_and_memory_stays(scene: Stage) -> None:
    """Nothing leaves: the queue fills up to its limit, and every further request is refused, not kept."""
    limit = 1_000
    scene.settings |= {"UNHURRIED_INGEST__QUEUE_REQUESTS_MAX": str(limit), "UNHURRIED_FLUSHER__LINGER_S": "3600"}
    scene.start()
    accepted, refusals = flood(scene, limit + 200, "first")
    assert len(accepted) == limit
    assert len(refusals) == 200
    full = memory(scene)
    more, refusals = flood(scene, 3_000, "second")
    assert not more
    assert len(refusals) == 3_000
    assert {refusal.json()["code"] for refusal in refusals[:100]} == {"queue_full"}
    assert all(int(refusal.headers["retry-after"]) > 0 for refusal in refusals)
    assert memory(scene) - full < 16_000_000
    with scene.client() as client:
        assert client.status()["requests"]["default"]["queued"] == limit
        client.flush()
    scene.wait_finished()
    assert set(scene.pull_all()) == set(accepted)
    scene.assert_paid_once()
    again, _ = flood(scene, 10, "third")
    assert len(again) == 10, "it takes new work as soon as there is room"


def flood(scene: Stage, count: int, text: str) -> tuple[list[str], list[httpx2.Response]]:
    """Single requests on one connection: the ids that were accepted, and the answers of those that were not."""
    accepted, refused = [], []
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(scene.socket)), base_url="http://u") as http:
        for line in lines(count, "default", text=text):
            answer = http.post("/queue/requests", content=line, headers={"content-type": "application/json"})
            if answer.status_code == 201:
                accepted.append(answer.json()["id"])
            else:
                assert answer.status_code == 429, answer.text
                refused.append(answer)
    return accepted, refused


@contextmanager
def crowd(path: Path, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(path))  # waits while the backlog is full, which one with a timeout would not
            connections.append(connection)
        yield connections


def memory(scene: Stage) -> int:
    """Resident bytes of the daemon."""
    assert scene.daemon is not None
    status = Path(f"/proc/{scene.daemon.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))
