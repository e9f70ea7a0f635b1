"""The table that a run prints: one line a seed, and the sum."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from tests.chaos.world import Story

COLUMNS: Final = (
    ("seed", 8), ("accepted", 9), ("delivered", 10), ("lost", 5), ("corrupted", 10), ("spurious", 9),
    ("paid twice", 11), ("late twins", 11), ("hidden", 7), ("gone", 5), ("kills", 6), ("points", 7), ("stops", 6),
    ("halts", 6), ("batches", 8), ("faults", 7), ("peace", 6), ("seconds", 8),
)  # fmt: skip
LEGEND: Final = (
    "lost: accepted, and without an outcome or never delivered. spurious: delivered or sent upstream, never accepted. "
    "late twins: paid in vain because a create appeared after the settlement time; each is reported by the daemon. "
    "hidden: paid a second time because somebody deleted a batch that was still looked for; nobody can tell. "
    "gone: named outcomes of batches that somebody deleted. kills: ends by SIGKILL, of them points at failpoints. "
    "stops: by SIGTERM. halts: SIGSTOP. faults: how often upstream or a receiver misbehaved. "
    "peace: seconds from their end until everything was done."
)


def head() -> str:
    return "".join(f"{name:>{width}}" for name, width in COLUMNS)


def row(story: Story) -> str:
    return _shown(str(story.seed), numbers(story))


def total(stories: Sequence[Story]) -> str:
    return _shown("total", summed(stories))


def numbers(story: Story) -> dict[str, float]:
    """Every column but the seed."""
    verdict = story.verdict
    return {
        "accepted": verdict.accepted, "delivered": verdict.delivered, "lost": verdict.lost,
        "corrupted": verdict.corrupted, "spurious": verdict.spurious, "paid twice": verdict.paid_twice,
        "late twins": verdict.late_twins, "hidden": verdict.deleted_unseen, "gone": verdict.gone,
        "kills": story.kills, "points": story.at_failpoints,
        "stops": story.stops, "halts": story.halts, "batches": story.batches, "faults": sum(story.faults.values()),
        "peace": story.peace_s, "seconds": story.seconds,
    }  # fmt: skip


def summed(stories: Sequence[Story]) -> dict[str, float]:
    found: dict[str, float] = {name: 0 for name, _ in COLUMNS[1:]}
    for story in stories:
        for name, value in numbers(story).items():
            found[name] += value
    return found


def faults(stories: Sequence[Story]) -> dict[str, int]:
    """By name, how often each fault struck in all worlds."""
    found: dict[str, int] = {}
    for story in stories:
        for name, times in story.faults.items():
            found[name] = found.get(name, 0) + times
    return dict(sorted(found.items()))


def as_json(stories: Sequence[Story], facts: dict[str, Any]) -> dict[str, Any]:
    """For machines: the sum, every seed, and what was struck."""
    return {
        **facts,
        "seeds": len(stories),
        "total": {name.replace(" ", "_"): round(value, 1) for name, value in summed(stories).items()},
        "duplicates": sum(story.verdict.duplicates for story in stories),
        "compared_with_upstream": sum(story.verdict.compared for story in stories),
        "deleted_unseen": sum(story.verdict.deleted_unseen for story in stories),
        "operator_acts": sum(story.acts for story in stories),
        "faults": faults(stories),
        "violations": sum(len(story.verdict.violations) for story in stories),
        "worlds": [asdict(story) for story in stories],
    }


def _shown(name: str, values: dict[str, float]) -> str:
    cells = [f"{name:>{COLUMNS[0][1]}}"]
    cells += [f"{values[column]:>{width}.0f}" for column, width in COLUMNS[1:]]
    return "".join(cells)
