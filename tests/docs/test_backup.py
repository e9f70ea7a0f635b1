"""docs/backup.md: every command that it shows does what it says."""

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.whole.stage import Stage, stage
from unhurried.store.sqlite.connection import APPLICATION_ID

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/backup.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
SOURCE = "".join(path.read_text() for path in (ROOT / "service/unhurried").rglob("*.py"))


def commands(section: str) -> list[str]:
    return [
        line
        for block in re.findall(r"^```sh\n(.*?)^```$", SECTIONS[section], re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]


@pytest.fixture
def scene() -> Iterator[Stage]:
    quiet = (
        ("UNHURRIED_FLUSHER__LINGER_S", "300"),
        ("UNHURRIED_SUBMISSION__SETTLE_GRACE_S", "600"),  # a search takes its time
        ("UNHURRIED_SUBMISSION__SETTLE_ABSENT_S", "9000"),
    )
    with tempfile.TemporaryDirectory(prefix="unhurried-") as name, stage(Path(name), quiet) as running:
        running.settings["UNHURRIED_DATABASE"] = str(running.folder / "unhurried.db")
        (running.folder / "backups").mkdir()
        yield running


def run(scene: Stage, command: str) -> str:
    """As somebody in the folder of the database would, with the backups beside it."""
    _, *arguments = shlex.split(command.replace("/backups/", f"{scene.folder}/backups/"))
    arguments = [
        str(scene.folder / word) if word.startswith(("unhurried.db", "saved.db")) else word for word in arguments
    ]
    ran = scene.run(*arguments)
    return ran.stdout + ran.stderr


def test_a_copy_is_made_put_back_and_waited_for(scene: Stage) -> None:
    scene.start()
    scene.submit(3)
    made = [run(scene, command) for command in commands("Make a copy")]
    assert "3 requests, verified" in made[0] and '"requests":3' in made[1]
    assert scene.stop() == 0
    *restoring, status, ask, release = commands("Put a copy back")
    said = [run(scene, command) for command in restoring]
    assert "nothing was done yet" in said[0] and "restored from" in said[1]
    scene.start()
    assert "RESTORED from a copy" in run(scene, status)
    assert "nothing was done yet" in run(scene, ask)
    assert "released" in run(scene, release)


def test_the_way_back_from_an_upgrade(scene: Stage) -> None:
    scene.start()
    scene.submit(2)
    scene.run("backup", str(scene.folder / "unhurried.db.before-0002"))
    assert scene.stop() == 0
    [back] = commands("Upgrades")
    assert "2 requests" in run(scene, back)


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="SQLite's shell is not installed")
def test_what_can_be_read_of_a_damaged_file_is_saved(scene: Stage) -> None:
    scene.start()
    scene.submit(4)
    assert scene.stop() == 0
    *saving, doctor, restore = commands("The file is damaged")
    for command in saving:
        subprocess.run(command, shell=True, cwd=scene.folder, check=True, capture_output=True)
    assert "every invariant holds" in run(scene, doctor)
    assert "4 requests" in run(scene, restore)


def test_the_number_on_the_page_is_the_one_that_the_file_needs() -> None:
    assert f"application_id = {APPLICATION_ID}" in PAGE


def test_the_sentences_and_events_on_the_page_are_said() -> None:
    for words in ("is empty, and a daemon", "is cut off after", "holds nothing, and", "is missing, and its log",
                  "is of another database", "SQLite database of another program"):  # fmt: skip
        assert words in SOURCE, words
    for name in re.findall(r"`((?:daemon|batch|database)\.[a-z_]+)`", PAGE):
        assert f'"{name}"' in SOURCE, name
