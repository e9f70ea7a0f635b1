"""A full disk: new requests are told to come later, accepted ones are finished, and it goes on by itself."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.resources.disks import Disk, small_disk
from tests.whole.stage import Stage, lines

MB = 1_000_000
LOW_WATER, RESERVE = 2 * MB, 4 * MB

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def disk(folder: Path) -> Iterator[Disk]:
    with small_disk(folder / "disk", 24 * MB) as disk:
        yield disk


@pytest.fixture
def small(scene: Stage, disk: Disk) -> Stage:
    """A daemon whose database, and its log as well, are on the small disk."""
    scene.settings |= {
        "UNHURRIED_DATABASE": str(disk.folder / "u.db"),
        "UNHURRIED_STORE__DISK_FREE_BYTES_MIN": str(LOW_WATER),
        "UNHURRIED_STORE__RESERVE_BYTES": str(RESERVE),
        "UNHURRIED_STORE__WAL_BYTES_MAX": "1000000",
    }
    (scene.folder / "serve.log").symlink_to(disk.folder / "serve.log")
    return scene


def test_new_requests_are_refused_before_the_disk_is_full(small: Stage, disk: Disk) -> None:
    small.start()
    ids = small.submit(50)
    disk.fill(leave=LOW_WATER // 2)
    refusal = small.until(lambda: refused(small), "new requests are refused")
    assert_full(refusal)
    assert ready(small) == (False, refusal.json()["detail"].partition(";")[0])
    assert_full(post(small, next(lines(1, "bulk")), "application/x-ndjson"))
    small.wait_finished()  # what was accepted is finished
    assert small.pull_all().keys() >= set(ids)  # and those that were accepted before the disk was looked at
    assert reserve(small).stat().st_size == RESERVE
    disk.make_room()
    small.until(lambda: refused(small) is None, "new requests are taken again")
    assert ready(small) == (True, None)
    small.wait_finished()
    small.assert_sound()


def test_results_are_stored_though_the_disk_is_full(small: Stage, disk: Disk) -> None:
    """Nothing at all is free. The reserve is given up, which is enough for the results, and made again later."""
    small.start()
    small.simulator.reset(answer_tokens=[400, 400])
    small.simulator.hold("results_start", times=1)
    ids = small.submit(800)
    small.simulator.wait_held("results_start")
    disk.fill()
    small.simulator.release("results_start")
    small.wait_finished()
    assert not reserve(small).exists()
    assert_full(refused(small))
    assert small.pull_all().keys() == set(ids)
    small.assert_sound()
    disk.make_room()
    small.until(lambda: refused(small) is None, "new requests are taken again")
    assert reserve(small).stat().st_size == RESERVE
    small.wait_finished()
    small.assert_paid_once()


def test_results_that_the_reserve_cannot_hold_wait_and_are_not_fetched_in_vain(small: Stage, disk: Disk) -> None:
    small.settings["UNHURRIED_STORE__RESERVE_BYTES"] = "300000"
    small.start()
    small.simulator.reset(answer_tokens=[800, 800])
    small.simulator.hold("results_start", times=1)
    ids = small.submit(2_000)
    small.simulator.wait_held("results_start")
    disk.fill()
    small.simulator.release("results_start")
    small.until(lambda: "no space for more results" in small.tail(1_000), "results wait for space")
    assert 0 < small.open_requests() < len(ids)
    disk.make_room()
    small.wait_finished()
    assert small.pull_all().keys() == set(ids)
    small.until(lambda: refused(small) is None, "new requests are taken again")
    small.assert_paid_once()
    small.assert_sound()


def test_a_daemon_starts_on_a_full_disk_and_goes_on(small: Stage, disk: Disk) -> None:
    small.start()
    small.simulator.hold("results_start", times=1)
    ids = small.submit(100)
    small.simulator.wait_held("results_start")
    small.kill()
    small.simulator.release("results_start")
    disk.fill()
    small.launch()
    small.until(lambda: answers(small), "the daemon answers")
    small.wait_finished()
    assert_full(refused(small))
    disk.make_room()
    small.until(lambda: refused(small) is None, "new requests are taken again")
    assert small.pull_all().keys() >= set(ids)
    small.assert_sound()


def test_without_a_reserve_a_start_on_a_full_disk_says_so(small: Stage, disk: Disk) -> None:
    """And nothing else happens: with space it starts, and has everything."""
    small.settings["UNHURRIED_STORE__RESERVE_BYTES"] = "0"
    small.start()
    ids = small.submit(20)
    small.wait_finished()
    small.stop()
    disk.fill()
    done = small.run("serve", expect=65)
    assert "no space is left" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    disk.make_room()
    small.start()
    assert small.pull_all().keys() == set(ids)


@pytest.mark.parametrize("point", ["reserve.begun", "reserve.made", "reserve.released"])
def test_a_kill_at_the_reserve_changes_nothing(small: Stage, disk: Disk, point: str) -> None:
    small.settings["UNHURRIED_FAILPOINTS"] = f"{point}=kill"
    small.launch()
    if point == "reserve.released":
        small.until(lambda: answers(small), "the daemon answers")
        small.simulator.reset(answer_tokens=[400, 400])
        small.simulator.hold("results_start", times=1)
        small.submit(800)
        small.simulator.wait_held("results_start")
        disk.fill()
        small.simulator.release("results_start")
    assert small.daemon is not None and small.daemon.wait(60) == -9
    small.daemon = None
    del small.settings["UNHURRIED_FAILPOINTS"]
    if point != "reserve.released":
        small.start()
        assert reserve(small).stat().st_blocks * 512 >= RESERVE
        return
    small.launch()
    small.until(lambda: answers(small), "the daemon answers")
    small.wait_finished()
    disk.make_room()
    small.until(lambda: refused(small) is None, "new requests are taken again")
    assert len(small.pull_all()) >= 800
    small.assert_sound()


def test_at_its_quota_a_daemon_refuses_what_is_new_and_finishes_the_rest(scene: Stage) -> None:
    scene.settings["UNHURRIED_STORE__DATABASE_BYTES_MAX"] = str(8 * MB)
    scene.start()
    accepted = 0
    while (refusal := post(scene, next(lines(1, "default", text="x" * 60_000)))).status_code == 201:
        accepted += 1
        assert accepted < 200
    assert accepted > 50
    assert_full(refusal)
    assert "80% of 8,000,000 bytes" in refusal.json()["detail"]
    scene.wait_finished()
    assert len(scene.pull_all()) == accepted
    assert scene.database.stat().st_size <= 8 * MB
    scene.assert_sound()
    scene.run("queues", "set", "default", "retention_days=0")
    scene.stop()
    scene.start()  # a round of deleting begins with each start
    scene.until(lambda: refused(scene) is None, "what is old is deleted, new requests are taken again")


def post(scene: Stage, body: bytes, kind: str = "application/json") -> httpx2.Response:
    transport = httpx2.HTTPTransport(uds=str(scene.socket))
    with httpx2.Client(transport=transport, base_url="http://u", timeout=30) as http:
        return http.post("/queue/requests", content=body, headers={"content-type": kind})


def refused(scene: Stage) -> Any:
    """The answer to one more request when it is a refusal, else None."""
    answer = post(scene, next(lines(1, "default", text=f"probe {time.monotonic_ns()}")))
    return None if answer.status_code == 201 else answer


def assert_full(answer: httpx2.Response) -> None:
    assert answer.status_code == 507, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "storage_full" and "what was accepted before is safe" in answer.json()["detail"]
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def ready(scene: Stage) -> tuple[bool, str | None]:
    with scene.client() as client:
        yes, told = client.ready()
    return yes, told["reason"]


def answers(scene: Stage) -> bool:
    try:
        ready(scene)
    except Exception:  # noqa: BLE001  # whatever it is, it does not answer
        return False
    return True


def reserve(scene: Stage) -> Path:
    return scene.database.with_name("u.db.reserve")
