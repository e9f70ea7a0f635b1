"""What the README shows is true: its commands run, its settings exist, its exit codes are the program's."""

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from unhurried.cli import exits
from unhurried.settings import variables

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

DEV = """#!/bin/sh
# ./dev without its installing: the environment of this test run is there already.
command=$1; shift
case $command in
demo) exec {python} -m unhurried demo "$@" ;;
unhurried) exec {python} -m unhurried "$@" ;;
test) exec {python} -m pytest --version ;;
esac
exit 99
"""
SQLITE3 = """#!{python}
import sqlite3, sys
flag, path, query = sys.argv[1:]
assert flag == "-readonly"
for row in sqlite3.connect(f"file:{{path}}?mode=ro", uri=True).execute(query):
    print(*row, sep="|")
"""


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that stands for a checkout, with ``dev`` in it; short enough for sockets."""
    folder = tmp_path_factory.mktemp("tour")
    for name, text in (("dev", DEV), ("bin/sqlite3", SQLITE3)):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(python=sys.executable))
        path.chmod(0o755)
    return folder


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UNHURRIED_", "ANTHROPIC_"))}
    ours = {"PYTHONPATH": str(ROOT / "service"), "PATH": f"{folder / 'bin'}:{kept['PATH']}", "TMPDIR": str(folder)}
    environ = {**kept, **ours}
    stop = "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n"  # whatever happens, nothing is left running
    return subprocess.run(
        ["bash", "-euc", stop + script],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_the_two_commands_are_the_first_block_and_work(elsewhere: Path) -> None:
    assert BLOCKS[0].split("\n") == ["./dev demo", "./dev test", ""]
    ran = shell(BLOCKS[0], elsewhere)
    assert ran.returncode == 0, ran.stderr
    assert "60 of 60: 60 succeeded" in ran.stdout


def test_the_tour_works_from_its_first_line_to_its_last(elsewhere: Path) -> None:
    ran = shell("\n".join(BLOCKS[1:]), elsewhere)
    logs = "".join(path.read_text() for path in elsewhere.glob("tour/*.log"))
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}\n{logs}"
    assert "3 requests in tour/requests.jsonl: 3 accepted" in ran.stdout
    assert ran.stdout.count('"type":"succeeded"') == 3
    assert "every invariant holds" in ran.stdout
    rows = sqlite3.connect(elsewhere / "tour/unhurried.db").execute("select state from v_requests").fetchall()
    assert rows == [("succeeded",)] * 3


def test_every_setting_named_in_the_readme_exists() -> None:
    known = {variable for variable, _, _ in variables()}
    assert set(re.findall(r"UNHURRIED_[A-Z_]*[A-Z]", README)) <= known


def test_every_exit_code_is_in_the_readme_and_no_other() -> None:
    table = README[README.index("## Exit codes") : README.index("## Where things are")]
    shown = {int(code) for first in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for code in first.split(",")}
    assert shown == {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}


def test_every_place_named_in_the_readme_is_there() -> None:
    table = README[README.index("## Where things are") :]
    for place in re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE):
        assert (ROOT / place).exists(), place
