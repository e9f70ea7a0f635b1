"""What the page of the architecture shows is what the code says."""

import itertools
import re
import tomllib
from enum import StrEnum
from pathlib import Path

import pytest

from unhurried.domain.collecting import RETRYABLE_ERRORS
from unhurried.domain.grouping import Why
from unhurried.domain.states import (
    TRANSITIONS,
    AttemptState,
    BatchState,
    DeliveryState,
    RequestState,
)
from unhurried.domain.submitting import No
from unhurried.settings import variables

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
SCHEMA = "".join(path.read_text() for path in sorted((ROOT / "migrations/sqlite").iterdir()))

ENTITIES = {"Request": RequestState, "Batch": BatchState, "Attempt": AttemptState, "Delivery": DeliveryState}
entities = pytest.mark.parametrize(("heading", "states"), ENTITIES.items(), ids=ENTITIES)


def section(heading: str) -> str:
    """From this heading to the next of the same or a higher level."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,3}} |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"there is no heading {heading!r}"
    return found[2]


def block(text: str, kind: str) -> list[str]:
    found = re.search(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no block {kind!r}"
    return found[1].splitlines()


def rows(text: str) -> list[list[str]]:
    """The cells of the first table in ``text``, without its head."""
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table, "there is no table"
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[0].splitlines()[2:]]


def pictured(lines: list[str]) -> set[tuple[str, str]]:
    """The transitions of lines such as ``a → b → c | d``."""
    found = set()
    for line in lines:
        steps = [step.split(" | ") for step in line.split(" → ")]
        for befores, afters in itertools.pairwise(steps):
            found |= {(before.strip(), after.strip()) for before in befores for after in afters}
    return found


def known(states: type[StrEnum]) -> set[tuple[str, str]]:
    return {(before.value, after.value) for before, after in TRANSITIONS[states]}


@entities
def test_every_transition_pictured_is_one_and_every_one_is_pictured(heading: str, states: type[StrEnum]) -> None:
    assert pictured(block(section(heading), "states")) == known(states)


@entities
def test_every_transition_is_explained_once(heading: str, states: type[StrEnum]) -> None:
    explained = [(before.strip("`"), after.strip("`")) for before, after, _ in rows(section(heading))]
    assert sorted(explained) == sorted(known(states))


def test_submitted_is_the_only_state_without_a_transition() -> None:
    """The page says that it is derived and never stored."""
    for states in ENTITIES.values():
        moving = {state for pair in TRANSITIONS[states] for state in pair}
        assert set(states) - moving == ({RequestState.SUBMITTED} if states is RequestState else set())
    requests = SCHEMA[SCHEMA.index("create table requests") : SCHEMA.index("create table bodies")]
    assert "'submitted'" not in requests.split("-- ")[0]


def test_the_layers_are_those_that_lint_imports_proves() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["id"] == "layers")
    assert block(section("Rooms"), "layers") == layers


def test_every_room_is_named() -> None:
    named = set(re.findall(r"`(\w+(?:\.py|/))`", section("Rooms")))
    package = ROOT / "service/unhurried"
    rooms = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    files = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert rooms | files <= named


def test_every_kind_of_answer_to_a_create_is_in_the_table() -> None:
    kinds = {kind.strip("`") for _, kind, _ in rows(section("Submission: paid once"))}
    assert kinds == {kind.value for kind in No} | {"created", "unknown"}


def test_every_reason_for_a_batch_is_in_the_table_in_its_order() -> None:
    assert [why.strip("`") for why, _ in rows(section("What a group is"))] == [why.value for why in Why]


def test_the_errors_that_are_repeated_are_named() -> None:
    (repeated,) = (outcome for outcome, _ in rows(section("Retries")) if "overloaded_error" in outcome)
    assert set(re.findall(r"`(\w+_error)`", repeated)) == RETRYABLE_ERRORS


def test_every_setting_named_exists() -> None:
    assert set(re.findall(r"UNHURRIED_[A-Z_]*[A-Z]", PAGE)) <= {variable for variable, _, _ in variables()}


def test_every_view_and_column_named_exists() -> None:
    for name in re.findall(r"\bv_\w+", PAGE):
        assert f"create view {name} as" in SCHEMA, name
    for table, column in re.findall(r"`(requests|batches|groups|account|boots|attempts|deliveries)\.([a-z_]+)`", PAGE):
        made = re.search(rf"^create table {table} \(.*?^\) strict", SCHEMA, re.MULTILINE | re.DOTALL)
        assert made and re.search(rf"^  {column}\b", made[0], re.MULTILINE), f"{table}.{column}"


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CHANGELOG.md",
        *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    ],
)
def test_every_link_leads_somewhere(page: str) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", (ROOT / page).read_text()):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.is_file(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, anchor
