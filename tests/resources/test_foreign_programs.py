"""Another program in our database: what it holds makes the daemon slower, and is told; nothing is lost by it."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest

from tests.whole.stage import Stage, lines

pytestmark = pytest.mark.timeout(180)
BUSY_S = 10
"""The writer waits so long for a lock (``connection.WRITER_BUSY_MS``)."""


def test_a_reader_in_a_transaction_stops_nothing_and_the_log_it_pins_is_told(scene: Stage) -> None:
    """An open ``begin; select …`` pins the write-ahead log: nothing can be moved out of it, so it grows."""
    scene.settings |= {"UNHURRIED_STORE__WAL_BYTES_MAX": "1000000"}
    scene.start()
    ids = scene.submit(10, text="before")
    with foreign(scene) as shell:
        shell.execute("begin")
        shell.execute("select count(*) from requests").fetchone()
        for turn in range(6):
            ids += scene.submit(500, text=f"turn {turn}")
        scene.wait_finished()
        pinned = wal_bytes(scene)
        assert pinned > 2_000_000
        scene.kill()
        scene.start()  # the keeper looks at its start, and once a minute
        scene.until(lambda: alarm(scene, "database.log_large"), "the alarm is raised")
        assert set(scene.pull_all()) == set(ids)
        shell.execute("rollback")
    scene.submit(10, text="after")
    scene.kill()
    scene.start()
    scene.until(lambda: wal_bytes(scene) < pinned / 2, "the log is emptied")
    scene.until(lambda: not alarm(scene, "database.log_large"), "the alarm is over")
    scene.assert_sound()
    scene.assert_paid_once()


def test_a_writer_in_a_transaction_delays_and_then_refuses_but_drops_nothing(scene: Stage) -> None:
    """A batch is running upstream while an operator's ``begin immediate`` keeps everybody from writing."""
    scene.start()
    ids = scene.submit(50, text="before")
    with foreign(scene) as shell, client(scene) as http:
        shell.execute("begin immediate")
        began = time.monotonic()
        refused = post(http, "while it is held")
        assert time.monotonic() - began > BUSY_S - 1, "it is waited for first"
        assert (refused.status_code, refused.json()["code"]) == (503, "busy")
        assert "sqlite3 shell" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) > 0
        with scene.client() as looking:
            assert sum(looking.status()["requests"]["default"].values()) == 50, "reading goes on beside it"
            ready, said = looking.ready()
            assert not ready
            assert "another program holds the database" in str(said)
        assert scene.tail(500).count('"store.held_up"') == 1, "it is told once"
        shell.execute("rollback")
        scene.until(lambda: "store.held_up_over" in scene.tail(500), "the end of it is told")
        accepted = post(http, "when it is free")
        assert accepted.status_code == 201
    scene.wait_finished()
    assert set(scene.pull_all()) == {*ids, accepted.json()["id"]}
    scene.assert_sound()
    scene.assert_paid_once()


def post(http: httpx2.Client, text: str) -> httpx2.Response:
    [line] = lines(1, "default", text=text)
    return http.post("/queue/requests", content=line, headers={"content-type": "application/json"})


@contextmanager
def client(scene: Stage) -> Iterator[httpx2.Client]:
    transport = httpx2.HTTPTransport(uds=str(scene.socket))
    with httpx2.Client(transport=transport, base_url="http://u", timeout=60) as http:
        yield http


@contextmanager
def foreign(scene: Stage) -> Iterator[sqlite3.Connection]:
    """A connection as a sqlite3 shell has one."""
    db = sqlite3.connect(scene.database, isolation_level=None, timeout=5)
    try:
        yield db
    finally:
        db.close()


def wal_bytes(scene: Stage) -> int:
    return scene.database.with_name(scene.database.name + "-wal").stat().st_size


def alarm(scene: Stage, name: str) -> bool:
    with foreign(scene) as db:
        return bool(db.execute("select 1 from v_alarms where alarm = ?", (name,)).fetchone())
