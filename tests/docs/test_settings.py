"""docs/settings.md has every setting as the code has it: ``unhurried config --markdown`` writes the tables anew."""

from pathlib import Path

from unhurried.cli.config import reference

ROOT = Path(__file__).parents[2]


def test_the_tables_are_those_of_the_code() -> None:
    _, _, tables = (ROOT / "docs/settings.md").read_text().partition("<!-- settings -->\n")
    assert tables.strip().splitlines() == reference().splitlines()
