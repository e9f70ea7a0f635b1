"""The page of the simulator names everything that can be set."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from unhurried.cli.simulate import simulate
from unhurried.simulator import faults
from unhurried.simulator.holds import POINTS

PAGE = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()


def test_every_fault_is_documented_with_its_parameters() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*)$", PAGE, re.MULTILINE))

    for name, fault in faults.FAULTS.items():
        for parameter in fault.parameters:
            assert f"`{parameter}=" in rows[name], f"{name}: {parameter}"


def test_every_hold_is_documented() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) >= set(POINTS)


def test_every_option_is_documented() -> None:
    for option in inspect.signature(simulate).parameters:
        assert f"--{option.replace('_', '-')}" in PAGE
