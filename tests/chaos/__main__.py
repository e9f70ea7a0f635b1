"""``./dev chaos``: worlds in which everything goes wrong, and a judge who asks whether every promise was kept.

In each world a simulated upstream lies, fails and lags, the daemon is killed again and again (at random moments and at
failpoints), stopped and halted; callers are cut off and come again, readers forget, receivers of webhooks misbehave, an
operator interferes. Then there is peace, and everything must be done within a bounded time: each accepted request has
one outcome, which was delivered, of exactly its params, and upstream was paid for it once.

The seed alone decides what is planned; which thread or process is faster, the machine decides. So a seed that has
failed is worth a few runs. The folder of a world that fails is kept: plan, database and logs.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count
from pathlib import Path
from typing import Final

from tests.chaos import plan, table
from tests.chaos.one import nice, one
from tests.chaos.world import Story

SHOWN_MAX: Final = 8
"""Violations of one seed that are printed; the folder has them all."""


def main() -> int:
    options = _options()
    if options.plan:
        print(plan.draw(options.seed, requests=options.requests, kills=options.kills).as_json())
        return 0
    options.keep.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    stories: list[Story] = []
    to_people = sys.stderr if options.json else sys.stdout
    print(table.head(), file=to_people, flush=True)
    for story in _until_interrupted(_stories(options, began)):
        stories.append(story)
        print(table.row(story), file=to_people, flush=True)
        for says in story.verdict.violations[:SHOWN_MAX]:
            print(f"    {says}", file=to_people)
        if story.verdict.violations:
            print(f"    again: {_again(options, story.seed)}; kept: {options.keep / str(story.seed)}", file=to_people)
    print(f"{table.total(stories)}\n\n{table.LEGEND}", file=to_people)
    failed = [story.seed for story in stories if story.verdict.violations]
    if options.json:
        facts = {"command": " ".join(["./dev chaos", *sys.argv[1:]]), "wall_s": round(time.monotonic() - began)}
        print(json.dumps(table.as_json(stories, facts), indent=1, ensure_ascii=False))
    if failed:
        print(f"{len(failed)} of {len(stories)} seeds have found something: {failed}", file=sys.stderr)
    return 1 if failed else 0


def _until_interrupted(stories: Iterator[Story]) -> Iterator[Story]:
    """What is finished by then still counts."""
    try:
        yield from stories
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)


def _again(options: argparse.Namespace, seed: int) -> str:
    default = _parser().parse_args([])
    said = [f"--{name} {getattr(options, name)}" for name in ("requests", "kills")
            if getattr(options, name) != getattr(default, name)]  # fmt: skip
    return " ".join([f"./dev chaos --seed {seed}", *said])


def _stories(options: argparse.Namespace, began: float) -> Iterator[Story]:
    """As they end: ``--seeds`` of them, or as many as begin within ``--minutes``."""
    seeds = count(options.seed)
    running: dict[Future[Story], int] = {}
    begun = 0

    def may_begin() -> bool:
        if options.minutes is not None and (time.monotonic() - began) / 60 >= options.minutes:
            return False
        return options.minutes is not None or begun < options.seeds

    # Not forked: a process with threads, of which these will have many, must not be.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.at_once, mp_context=context, initializer=nice) as pool:
        while True:
            while len(running) < options.at_once and may_begin():
                seed = next(seeds)
                begun += 1
                running[pool.submit(one, seed, options.requests, options.kills, options.keep)] = seed
            if not running:
                return
            _progress(sorted(running.values()))
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            _progress([])
            for future in done:
                del running[future]
                yield future.result()


def _progress(seeds: list[int]) -> None:
    if sys.stderr.isatty():
        text = f"running: {', '.join(map(str, seeds))}" if seeds else ""
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    return _parser().parse_args()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./dev chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit code: 0 when every promise was kept, 1 when not.\n"
        "  ./dev chaos --seed 7                  one world\n"
        "  ./dev chaos --seeds 50 --at-once 2    fifty, two side by side\n"
        "  ./dev chaos --minutes 60 --json       as many as fit into an hour, the record on standard output",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the first seed; default %(default)s")
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="so many, from N on; default %(default)s")
    parser.add_argument("--minutes", type=float, metavar="M", help="instead: begin new ones for so long")
    parser.add_argument(
        "--requests", type=int, default=300, metavar="R", help="in each world, about; default %(default)s"
    )
    parser.add_argument(
        "--kills", type=int, default=6, metavar="D", help="lives of each daemon that end early; default %(default)s"
    )
    parser.add_argument("--at-once", type=int, default=1, metavar="W", help="worlds side by side; default %(default)s")
    parser.add_argument("--plan", action="store_true", help="print what is planned for seed N, and do nothing")
    parser.add_argument(
        "--json", action="store_true", help="print the record as JSON; the table goes to standard error"
    )
    parser.add_argument(
        "--keep", type=Path, default=Path(tempfile.gettempdir()) / "unhurried-chaos", metavar="FOLDER",
        help="where the folders of worlds go that found something; default %(default)s",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
