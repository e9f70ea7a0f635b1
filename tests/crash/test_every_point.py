"""Killed at every failpoint, started again, worked to the end, and checked.

A run (``run.py``) is a daemon with one armed point, and a client that plays a story (``stories.py``) with it: it
repeats what was not answered, with the same idempotency keys, and confirms what it has. When the daemon dies, its exit
code must be the one of the kill, and the file it leaves, the file after the next start and the file at the end must
satisfy every invariant of ``unhurried doctor``. At the end (``book.py``) every acknowledged request has come back once,
with the answer to its question; repeating all of them finds each as a duplicate; upstream knows our requests and no
others, with the params that were handed in, and each is paid once (but where a story says that a late twin is paid in
vain).

* As CI runs it: the chains of ``stories.py``. The first daemon is killed at the first link, the next one at the second.
* ``UNHURRIED_TEST_CRASH_HITS=k``: each point of each story alone, in runs of their own, at its 1st, 2nd … k-th hit.
* ``UNHURRIED_TEST_CRASH_ALL=1``: the main story killed at its 1st, 2nd … last hit of any point; ``=n``: at each n-th.

The crash points of the design, and where they are:

==  ============================================  ==================================================================
1   before the commit of an accept                chains with ``ingest.checked``, ``writer.begun`` … ``writer.settled``
2   after it, before the answer                   ``ingest.accepted``, ``bulk.stored``, ``bulk.whole``
3   one job of a group breaks a constraint        ``test_in_process.py``
4   batch and members are on disk                 ``flusher.begun``, ``flusher.added``, ``flusher.formed``
5   after the intent, before the POST             ``submission.intended``; ``test_named.py`` (``create_before_body``)
6   in the upload                                 ``submission.uploading``; ``test_named.py`` (``create_mid_upload``)
7   created, the answer not read                  ``test_named.py`` (``create_received``); story ``adopted``
8   answer read, not recorded                     ``submission.answered``
9   500 after creating                            ``test_named.py``
10  while polling                                 ``tracker.seen``; ``test_named.py``
11  in the middle of the results                  ``collector.stored``, ``collector.read``; story ``torn``
12  between a result and its delivery             ``store.half_stored``
13  stored, not delivered                         ``collector.finished``, ``dispatcher.claimed``
14  webhook sent, answer not recorded             ``dispatcher.sent``
15  response written, no ack                      ``results.pulled``, ``results.handed_over``, ``stream.handed_over``
16  ack received, not committed                   ``results.confirming``
17  cancel while submitting                       ``test_named.py``; story ``cancel``
18  in the middle of deleting                     story ``retention``, and ``erase``
19  in a migration                                ``test_starting.py``; with upgrades: elsewhere, ``tests/upgrades``
20  an older program on a newer schema            elsewhere: ``tests/store/test_migrating.py``, ``tests/upgrades``
21  full disk                                     elsewhere: ``tests/resources``
22  a failing fsync                               elsewhere: ``tests/resources``
23  the clock jumps                               elsewhere: ``tests/resources``
24  a process that was stopped                    elsewhere: ``tests/resources``
25  a second daemon, a foreign program            elsewhere: ``tests/whole/test_serve.py``, ``tests/resources``
26  an old copy is restored                       elsewhere: the tests of ``unhurried restore``
27  killed in recovery, again and again           ``test_starting.py``, and the first chains of the main story
28  expired, gone or deleted upstream             story ``gone``; ``test_named.py``; ``tests/whole/test_faults.py``
29  SIGTERM, then SIGKILL                         ``test_stopping.py``
30  power cut                                     elsewhere: ``tests/power``
==  ============================================  ==================================================================
"""

import os
from pathlib import Path
from typing import Final

import pytest

from tests.crash.run import Theatre
from tests.crash.stories import ELSEWHERE, IN_PROCESS, STOPPING, STORIES, UPGRADING, Story
from unhurried.failpoints import POINTS

HITS: Final = int(os.environ.get("UNHURRIED_TEST_CRASH_HITS", "0"))
STRIDE: Final = int(os.environ.get("UNHURRIED_TEST_CRASH_ALL", "0"))
SHARDS: Final = 8
ROOT: Final = Path(__file__).parents[2]

CHAINS: Final = [
    pytest.param(name, chain.split(), id=f"{name}: {chain.split()[0]}…")
    for name, story in STORIES.items()
    for chain in story.chains
]
SINGLES: Final = [
    pytest.param(name, point, id=f"{name}: {point}") for name, story in STORIES.items() for point in story.points
]

pytestmark = pytest.mark.timeout(600)


def test_every_point_is_killed_at_somewhere() -> None:
    """Here, or by its name in the folder that ``ELSEWHERE`` gives for it."""
    ours = {point for story in STORIES.values() for point in story.points}.union(UPGRADING, STOPPING, IN_PROCESS)
    unknown = sorted(ours - set(POINTS))
    assert not unknown, f"tests/crash/stories.py kills at {unknown}, which unhurried/failpoints.py does not know"
    missing = sorted(point for point in set(POINTS) - ours if not is_named_elsewhere(point))
    assert not missing, f"nobody kills at {missing}: add each to a chain of a story in tests/crash/stories.py"


def is_named_elsewhere(point: str) -> bool:
    folder = ELSEWHERE.get(point.partition(".")[0])
    return folder is not None and any(f'"{point}' in path.read_text() for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize(("name", "links"), CHAINS)
def test_killed_one_place_after_the_other(stages: Theatre, name: str, links: list[str]) -> None:
    kills = play(stages, STORIES[name], *map(armed, links))
    assert kills == len(links), f"{links[kills]} was not reached: is the link in its place?"


@pytest.mark.skipif(not HITS, reason="the long form, by UNHURRIED_TEST_CRASH_HITS")
@pytest.mark.parametrize(("name", "point"), SINGLES)
def test_killed_at_each_hit_of_a_point(stages: Theatre, name: str, point: str) -> None:
    survived = 0
    while survived < HITS and play(stages, STORIES[name], f"{point}=kill@{survived + 1}"):
        survived += 1
    print(f"kills survived: {survived}")
    assert survived, f"{point} was not reached"


@pytest.mark.skipif(not STRIDE, reason="the long form, by UNHURRIED_TEST_CRASH_ALL")
@pytest.mark.parametrize("shard", range(SHARDS))
def test_the_main_story_killed_at_every_hit(stages: Theatre, shard: int) -> None:
    """The story is played once to learn how many there are; some hits depend on how things fall together."""
    story = STORIES["main job"]
    with stages.run(settings=story.settings) as run:
        notes = run.stage.folder / "hits"
        run.armed = lambda _: f"*=note:{notes}"
        story.play(run)
        hits = len(notes.read_text().splitlines())
    moments = range(1 + STRIDE * shard, hits + 1, STRIDE * SHARDS)
    survived = sum(play(stages, story, f"*=kill@{hit}") for hit in moments)
    print(f"hits: {hits}, kills survived: {survived}")
    assert survived >= 0.8 * len(moments)


def armed(link: str) -> str:
    point, _, hit = link.partition("@")
    return f"{point}=kill@{hit or 1}"


def play(stages: Theatre, story: Story, *places: str) -> int:
    """Returns how many kills it survived; each is one of ``places``."""
    with stages.run(*places, webhooks=story.webhooks, settings=story.settings) as run:
        story.play(run)
        run.check()
        return run.kills
