"""docs/operations.md answers the questions of a bad night: its queries and its commands, run on such a database."""

import asyncio
import re
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.incident import WANTED, Night, bad_night
from tests.whole.stage import Stage, stage
from unhurried.cli import exits
from unhurried.clock import SystemClock

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text()
SOURCE = "".join(path.read_text() for path in (ROOT / "service/unhurried").rglob("*.py"))
DAEMONS_EXITS = (exits.DATABASE, exits.BUG, exits.CANNOT_CREATE, exits.TAKEN, exits.SETTINGS)
QUESTIONS = re.findall(r"^## (\d+)\. (.+?)\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)


def blocks(language: str, number: int) -> str:
    text = next(body for found, _, body in QUESTIONS if int(found) == number)
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Night]:
    path = tmp_path_factory.mktemp("night") / "unhurried.db"
    return path, asyncio.run(bad_night(path, SystemClock().now()))


@pytest.fixture
def database(night: tuple[Path, Night]) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(f"file:{night[0]}?mode=ro", uri=True)
    yield db
    db.close()


def test_there_are_ten_questions() -> None:
    assert [int(number) for number, _, _ in QUESTIONS] == list(range(1, 11))


@pytest.mark.parametrize(
    ("number", "named"),
    [
        (2, {WANTED, "submitted", "msgbatch_content"}),
        (1, {"running, or cut off after seen_at"}),
        (
            3,
            {
                "401 authentication_error: invalid x-api-key",
                "budget: ask Mira",
                "classification",
                "account.paused",
                "uid:1001",
            },
        ),
        (4, {"msgbatch_content", "in_progress", "content"}),
        (5, {"reports", "timeout", "batch.unknown"}),
        (6, {"invalid_request_error", "expired", "nightly"}),
        (7, {"failing", "paused", "the receiver answered 410 Gone", "https://orders.example: connection refused"}),
        (8, {"outcome", "succeeded"}),
        (9, {"delivery.dead", "destination.paused", "account.paused", "uid:1000", "0.1.0"}),
        (10, {"classification", "pull:nightly", "webhook:orders", "succeeded"}),
    ],
)
def test_the_queries_of_a_question_find_its_answer(number: int, named: set[str], database: sqlite3.Connection) -> None:
    asked = [statement for statement in blocks("sql", number).split(";") if statement.strip()]
    found = {str(value) for statement in asked for row in database.execute(statement) for value in row}
    assert named <= found


def test_every_exit_code_that_a_restart_is_about_is_in_the_table() -> None:
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)] == list(DAEMONS_EXITS)


def test_every_message_of_the_log_named_is_logged() -> None:
    section = re.search(r"^# The log\n(.*?)^# ", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None
    names = re.findall(r"`((?:batch|account|daemon)\.[a-z_]+)`", section[1])
    assert len(names) > 8
    for name in names:
        assert f'"{name}"' in SOURCE, name


QUIET = (
    ("UNHURRIED_SUBMISSION__SETTLE_GRACE_S", "3600"),  # the doubt stays as it is
    ("UNHURRIED_POLLER__INTERVAL_MIN_S", "600"),
    ("UNHURRIED_POLLER__INTERVAL_MAX_S", "600"),
    ("UNHURRIED_FLUSHER__LINGER_S", "3600"),
    ("UNHURRIED_DELIVERY__CONNECT_TIMEOUT_S", "1"),
    ("UNHURRIED_DELIVERY__TIMEOUT_S", "1"),
    ("WEBHOOK_SECRET", "whsec_" + "A" * 32),
)
SAID = {
    1: ("classification is paused", "webhook:old", "writer"),
    2: (WANTED, "submitted"),
    3: ("budget: ask Mira", "classification"),
    4: ("msgbatch_content", "in_progress"),
    5: ("unknown", "reports"),
    6: ("nightly", "errored", "5"),
    7: ("webhook:orders", "dead", "webhook:old", "410"),
    9: ("destination.paused", "account.paused", "uid:"),
    10: ("every invariant holds", "nightly"),
}
"""What the commands of a question say, with the daemon at work on the bad night's database."""
CODES = {"unhurried destinations test webhook:orders": 1}
"""No receiver is there, and it says so."""


def test_the_commands_of_each_question_answer_it(tmp_path: Path) -> None:
    with stage(tmp_path, QUIET) as scene:
        url = scene.environment["UNHURRIED_UPSTREAM__BASE_URL"]
        asyncio.run(bad_night(scene.database, SystemClock().now(), url))
        scene.start()
        scene.until(lambda: "webhook:old" in alarms(scene), "the keeper raised its alarms")
        for number, _, _ in QUESTIONS:
            said = ""
            for command in filter(None, blocks("sh", int(number)).splitlines()):
                if command.startswith("unhurried "):
                    ran = scene.run(*shlex.split(command)[1:], expect=CODES.get(command, 0))
                    said += ran.stdout + ran.stderr
            missing = [word for word in SAID.get(int(number), ()) if word not in said]
            assert not missing, (number, missing, said)


def alarms(scene: Stage) -> str:
    return scene.run("query", "select * from v_alarms").stdout
