"""One seed from its plan to its verdict, in a process of its own."""

import os
import shutil
import tempfile
import traceback
from pathlib import Path

from tests.chaos import plan, world
from tests.chaos.oracle import Verdict


def one(seed: int, requests: int, kills: int, keep: Path | None) -> world.Story:
    """The world of ``seed``. Its folder is kept under ``keep`` if anything was wrong."""
    # A short name: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="unhurried-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            story = world.run(plan.draw(seed, requests=requests, kills=kills), folder)
        except Exception:  # noqa: BLE001  # it is told with its seed, and the other worlds go on
            story = world.Story(seed, Verdict(violations=[f"there was no world: {traceback.format_exc()}"]))
        if story.verdict.violations and keep is not None:
            (folder / "violations.txt").write_text("\n".join(story.verdict.violations) + "\n")
            kept = keep / str(seed)
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("*.sock"))
        return story


def nice() -> None:
    """Whoever else works at this machine comes first."""
    os.nice(5)
