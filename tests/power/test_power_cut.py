"""Power cuts: of the daemon's files only those bytes are left that were synced, and nothing acknowledged is missing.

What is modelled is a disk that keeps what it said it has, and loses all else. Torn writes, and disks that lie about
fsync, are not.
"""

import asyncio
import json
import os
import random
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.power.load import Load, params
from tests.whole.stage import Stage
from unhurried.store.sqlite.doctor import examine

CUTS = int(os.environ.get("UNHURRIED_TEST_POWER_CUTS", "1"))
"""How often the power is cut in the test of accepted requests. Once is the short form."""
ACKED = 2_200
RELAXED = (sys.executable, str(Path(__file__).with_name("relaxed.py")))

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("turn", range(CUTS))
def test_nothing_accepted_is_lost_by_a_power_cut(scene: Stage, shim: Path, turn: int) -> None:
    """By many callers at once and in bulk, while batches are formed, sent and collected."""
    enough = ACKED if turn == 0 else random.Random(turn).randrange(200, 4_000)
    load = cut_under_load(scene, shim, enough)
    assert load.singles > 100 and load.bulks >= 100, (load.singles, load.bulks)
    assert lost(scene, load) == []
    scene.start()
    scene.wait_finished(120)
    results = pulled(scene)
    assert load.acked.keys() <= results
    scene.assert_created_once()
    scene.assert_paid_once()
    scene.assert_sound()
    print(f"power cut {turn + 1}: acknowledged {len(load.acked):,}, lost 0")


@pytest.mark.parametrize("turn", range(max(1, CUTS // 5)))
def test_a_daemon_that_does_not_wait_for_the_disk_loses_some(scene: Stage, shim: Path, turn: int) -> None:
    """The same cut with ``synchronous=NORMAL``: what the test above does not find, it would find."""
    scene.program = RELAXED
    load = cut_under_load(scene, shim, ACKED)
    missing = lost(scene, load)
    print(f"power cut with synchronous=NORMAL: acknowledged {len(load.acked):,}, lost {len(missing):,}")
    assert missing


def test_outcomes_and_deliveries_survive_a_power_cut(scene: Stage, shim: Path) -> None:
    """Cut with one batch in the midst of its results, and with results handed out, some of them confirmed."""
    preload(scene, shim)
    scene.start()
    early = scene.submit(300, "early")
    scene.wait_finished()
    scene.simulator.hold("results_mid", times=1, after_lines=200)
    late = scene.submit(400, "late")
    scene.simulator.wait_held("results_mid")
    with scene.client() as client:
        handed = client.pull("pull:early", limit=200, wait=0)
        confirmed = {result.request_id for result in handed[:120]}
        client.ack([result.delivery_id for result in handed[:120] if result.delivery_id])
    cut(scene)
    scene.simulator.release("results_mid")
    with scene.client() as client:
        again = {result.request_id: result.delivery_id for result in client.pull("pull:early", limit=1_000, wait=0)}
        client.ack([delivery_id for delivery_id in again.values() if delivery_id])
    assert again.keys() == set(early) - confirmed
    assert {again[result.request_id] for result in handed[120:]} == {result.delivery_id for result in handed[120:]}
    scene.wait_finished()
    assert scene.pull_all("late").keys() == set(late)
    scene.assert_created_once()
    scene.assert_paid_once()
    scene.assert_sound()


def test_a_power_cut_in_a_create_leaves_one_batch(scene: Stage, shim: Path) -> None:
    """The intent was synced before the first byte was sent: upstream has the batch, and it is found there."""
    preload(scene, shim)
    scene.start()
    scene.simulator.hold("create_received", times=1)
    ids = scene.submit(200)
    scene.simulator.wait_held("create_received")
    cut(scene)
    scene.simulator.release("create_received")
    scene.wait_finished()
    assert scene.pull_all().keys() == set(ids)
    assert len({row["batch_id"] for row in scene.simulator.created()}) == 1
    scene.assert_paid_once()
    scene.assert_sound()


def preload(scene: Stage, shim: Path) -> None:
    (scene.folder / "shadow").mkdir()
    scene.fresh = {"LD_PRELOAD": str(shim), "SHIM_SHADOW": str(scene.folder / "shadow")}
    # Small, so that it is moved into the database under load as well, and cheap to copy.
    scene.settings["UNHURRIED_STORE__WAL_BYTES_MAX"] = "2000000"


def cut_under_load(scene: Stage, shim: Path, enough: int) -> Load:
    """The daemon under load until the power is cut; its folder is then what a disk would have."""
    preload(scene, shim)
    scene.start()
    scene.until(lambda: '"daemon.upstream"' in scene.tail(100), "batches are sent")
    load = Load(scene.socket, enough, cut=power_button(scene))
    asyncio.run(load.run())
    scene.kill()
    keep_only_what_was_synced(scene)
    return load


def cut(scene: Stage) -> None:
    """Cut the power, and start the daemon from what the disk has."""
    scene.kill()
    keep_only_what_was_synced(scene)
    scene.start()


def power_button(scene: Stage) -> Callable[[], None]:
    assert scene.daemon is not None
    return scene.daemon.kill


def keep_only_what_was_synced(scene: Stage) -> None:
    """From here on the daemon needs no shim."""
    scene.fresh = None
    for file in scene.folder.glob("u.db*"):
        file.unlink()
    for file in (scene.folder / "shadow").glob("u.db*"):
        if not file.name.endswith(".tmp"):
            file.rename(scene.folder / file.name)


def lost(scene: Stage, load: Load) -> list[str]:
    """The acknowledged requests that are missing, or not as they were given. Looks at a copy, which it may change."""
    copy = scene.folder / "looked-at"
    copy.mkdir()
    for file in scene.folder.glob("u.db*"):
        shutil.copy(file, copy)
    db = sqlite3.connect(copy / "u.db")
    try:
        kept = dict(db.execute("select r.id, b.params from requests r join bodies b on b.request_seq = r.seq"))
        finished = {id for (id,) in db.execute("select id from requests where finished_at is not null")}
    finally:
        db.close()
    assert asyncio.run(examine(copy / "u.db")) == []
    return [
        id
        for id, text in load.acked.items()
        if id not in finished and (id not in kept or json.loads(kept[id]) != params(text))
    ]


def pulled(scene: Stage) -> set[str]:
    return set(scene.pull_all())
