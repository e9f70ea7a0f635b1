"""What docs/promises.md names is there: its tests, its settings, its commands."""

import re
import shlex
from pathlib import Path

import pytest

from unhurried.settings import variables

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/promises.md").read_text()
README = (ROOT / "README.md").read_text()
PROOFS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", PAGE)))


@pytest.mark.parametrize("path", PROOFS)
def test_every_proof_is_a_test_that_runs_by_default(path: str) -> None:
    assert re.search(r"^(async )?def test_|^Test\w+ = ", (ROOT / path).read_text(), re.MULTILINE), path


def test_every_promise_has_its_proof() -> None:
    promises = re.findall(r"^## (\d)\. (.+)$", PAGE, re.MULTILINE)
    assert [title for _, title in promises] == re.findall(r"^\d\. \*\*(.+?)\.\*\*", README, re.MULTILINE)
    for number, title in promises[:-1]:  # the last says itself that its reports are not there yet
        section = PAGE.split(f"## {number}. {title}\n")[1].split("\n## ")[0]
        assert re.search(r"`tests/", section), title


def test_every_setting_and_variable_named_is_one() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))
    known = {variable for variable, _, _ in variables()}
    for name in set(re.findall(r"UNHURRIED_[A-Z_]*[A-Z]", PAGE)):
        assert name in known or f'"{name}"' in tests, name


def test_every_command_names_what_is_there() -> None:
    block = re.search(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert block
    for line in block[1].splitlines():
        words = [word for word in shlex.split(line) if "=" not in word]
        assert words[0] == "./dev" and words[1] in ("test", "chaos"), line
        for path in words[2:] if words[1] == "test" else ():
            assert (ROOT / path).is_dir(), path
