"""A few small worlds, by fixed seeds: the short form of ``./dev chaos``."""

import os
from pathlib import Path

import pytest

from tests.chaos import plan
from tests.chaos.faults import FAULTS, NOT_CALLED, TWIN
from tests.chaos.one import one
from unhurried.simulator.faults import FAULTS as ALL
from unhurried.simulator.faults import Faults

SEEDS = [int(seed) for seed in os.environ.get("UNHURRIED_TEST_CHAOS_SEEDS", "2 3").split()]
REQUESTS, KILLS = 60, 3


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
def test_in_a_small_world_nothing_is_lost_and_nothing_is_paid_twice(seed: int, tmp_path: Path) -> None:
    story = one(seed, REQUESTS, KILLS, tmp_path)
    assert story.verdict.violations == [], f"./dev chaos --seed {seed} --requests {REQUESTS} --kills {KILLS}"
    assert story.verdict.accepted == story.verdict.delivered >= REQUESTS
    assert story.kills + story.stops >= KILLS
    assert sum(story.faults.values()) >= 3


def test_a_seed_decides_the_whole_plan() -> None:
    assert plan.draw(7).as_json() == plan.draw(7).as_json()
    assert plan.draw(7).as_json() != plan.draw(8).as_json()


def test_every_fault_of_the_simulator_is_in_some_plan_and_is_one_that_it_takes() -> None:
    assert set(FAULTS) - {TWIN} == set(ALL) - NOT_CALLED
    simulated = Faults(0)
    drawn = set()
    for seed in range(60):
        for fault in plan.draw(seed, requests=10).faults:
            drawn.add(fault.name)
            simulated.put("create_late" if fault.name == TWIN else fault.name, fault.parameters)
    assert drawn == set(FAULTS)
