"""An fsync that fails: the daemon stops and says so, for nobody knows what is on disk; the next looks and goes on."""

import os
from pathlib import Path

import httpx2
import pytest

from tests.power.load import envelope
from tests.whole.stage import Stage

pytestmark = pytest.mark.timeout(180)


OFTEN = ["once", "always"] if os.environ.get("UNHURRIED_TEST_POWER_CUTS") else ["always"]


@pytest.mark.parametrize("often", OFTEN)
def test_a_daemon_whose_disk_fails_stops_and_loses_nothing(scene: Stage, shim: Path, often: str) -> None:
    trigger = scene.folder / "eio"
    scene.fresh = {"LD_PRELOAD": str(shim), "SHIM_EIO": str(trigger)}
    scene.start()
    ids = scene.submit(100)
    scene.until(lambda: '"batch.submitted"' in scene.tail(100), "the batch is upstream")
    trigger.write_text(often)
    with pytest.raises((httpx2.HTTPError, AssertionError)):
        assert post(scene).status_code == 201  # nobody is told of an accept that may not be on disk
    assert scene.daemon is not None
    assert scene.daemon.wait(30) == 65
    [last] = scene.tail(1).splitlines()
    assert last.startswith("unhurried: ") and "cannot be written any more" in last and "SQLITE_IOERR_FSYNC" in last
    assert "Traceback" not in scene.tail(1_000)
    trigger.unlink(missing_ok=True)
    scene.fresh = None
    scene.start()
    assert '"store.checked"' in scene.tail(10)
    scene.wait_finished()
    assert scene.pull_all().keys() >= set(ids)
    scene.assert_created_once()
    scene.assert_paid_once()
    scene.assert_sound()


def post(scene: Stage) -> httpx2.Response:
    transport = httpx2.HTTPTransport(uds=str(scene.socket))
    with httpx2.Client(transport=transport, base_url="http://u", timeout=30) as http:
        return http.post("/queue/requests", content=envelope("late"), headers={"content-type": "application/json"})
