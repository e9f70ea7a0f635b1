"""Named places at which a test can kill the daemon, make it fail, or hold it up.

Each stands between two beats of a step: what it says is what is on disk, or known upstream, when it is reached. They
are armed by ``UNHURRIED_FAILPOINTS`` and by nothing else, and only where upstream is the simulator (``settings``).
Unarmed, a point costs one look at an empty dictionary.

``NAME=ACTION[@K]``, several with commas; ``*`` is every point, counted together; K is the hit that counts, 1 unless
said otherwise. Actions:

* ``kill``: SIGKILL, as a power button would;
* ``raise``: ``FailpointReached``, a bug that nobody expects;
* ``block:PATH``: makes the file PATH and holds up the thread until somebody removes it;
* ``note:PATH``: writes the name of every hit into PATH and goes on: what a test could arm.
"""

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

VARIABLE: Final = "UNHURRIED_FAILPOINTS"
ANY: Final = "*"
LOOK_S: Final = 0.01

POINTS: Final[Mapping[str, str]] = {
    # starting is recovering
    "start.locked": "the lock is held, the file is not opened",
    "reserve.begun": "the file of the reserve is there, it may be empty or half made",
    "reserve.made": "the reserve is whole",
    "reserve.released": "the reserve was given up, what was to be written is rolled back",
    "start.opened": "the file is open, its schema is not looked at",
    "migrate.backed_up": "the copy from before an upgrade is complete",
    "migrate.begun": "the transaction of a migration is open and empty",
    "migrate.statement": "one more statement of a migration has run, none is committed",
    "migrate.versioned": "all of a migration has run, its version row too, nothing is committed",
    "migrate.committed": "a migration is on disk",
    "start.epoch": "the new boot is on disk, nothing of older ones is reclaimed",
    "start.bound": "the account is on disk",
    "start.recovered": "what older boots left behind is reclaimed",
    "start.listening": "the socket is there, no loop has run",
    "start.connected": "upstream is at hand, its loops have not run",
    # copies
    "backup.begun": "an empty file for the copy is there, under a name of its own",
    "backup.copied": "every page is copied, nothing is verified",
    "backup.marked": "the copy is verified, and says of itself that it is one",
    "backup.verified": "the copy is on disk under its own name, the old one still has the place",
    "backup.renamed": "the copy has the place, the folder is not synced",
    "restore.checkpointed": "the log of the old database is in its file, as far as that can be read",
    "restore.decided": "the copy lies beside the database: whoever comes next puts it in its place",
    "restore.named": "the old database has a second name, its log does not",
    "restore.aside": "the old log is beside that second name, the old database has its place still",
    "restore.in_place": "the copy is in its place, the folder is not synced",
    # the writer, in its thread
    "writer.begun": "a transaction is open and empty",
    "writer.job": "one more job of a group has run, none is committed",
    "writer.settled": "a whole group has run, nothing is committed",
    "writer.committed": "a group is on disk, nobody knows yet",
    "writer.checkpointed": "the log was moved into the file, as far as readers allow",
    "store.half_stored": "results are inserted, their deliveries are not, nothing is committed",
    # ingest
    "ingest.checked": "requests are read and checked, nothing is stored",
    "ingest.accepted": "requests are on disk, their callers do not know",
    "bulk.stored": "a chunk of a bulk call is on disk, its answers are not written",
    "bulk.whole": "a bulk call is on disk, no byte is answered",
    "ingest.canceled": "a cancel is on disk, its caller does not know",
    "ingest.retried": "a retry is on disk, its caller does not know",
    "store.erased": "contents are erased, the write-ahead log may still have their bytes",
    "ingest.erased": "contents are erased, the caller does not know",
    "ingest.redelivered": "a delivery is made anew, its caller does not know",
    "results.pulled": "results are leased, no byte is handed over",
    "results.handed_over": "results are with the kernel, nothing is confirmed",
    "results.confirming": "a confirmation is read, nothing is stored",
    "results.confirmed": "a confirmation is on disk, its caller does not know",
    "stream.handed_over": "one result of a stream is with the kernel, nothing is confirmed",
    # flusher
    "flusher.begun": "a batch is forming and has no members",
    "flusher.added": "a batch is forming and has one more chunk of members",
    "flusher.formed": "a batch is sealed and waits for its submission",
    # submission
    "submission.distinct": "a formed batch has lost a member, so that no other in doubt is as large",
    "submission.dated": "upstream has told its time, no intent is on disk",
    "submission.intended": "the intent is on disk, no byte is sent",
    "submission.uploading": "one more page of the body was read for the upload",
    "submission.answered": "upstream has answered a create, nothing is recorded",
    "submission.recorded": "the outcome of a create is on disk",
    "submission.released": "a chunk of members of a refused batch is queued again",
    # settlement
    "settlement.listed": "upstream was listed for batches in doubt, nothing is decided",
    "settlement.looked": "a verdict is there and what the look has shown is on disk, it is not acted on",
    "settlement.adopted": "a batch in doubt is adopted",
    "settlement.abandoned": "a batch in doubt is given up",
    "settlement.nonce_read": "the first line of a candidate is read, its owner is not recorded",
    "settlement.stranger": "a candidate is on disk as a stranger's",
    "settlement.disowned": "a batch has lost the one that it had adopted, its own is not adopted yet",
    "settlement.harvested": "a late twin is on disk and will be collected",
    "settlement.swept": "the sweep for late twins is through, that is not on disk",
    # the search after a restore
    "search.listed": "upstream was listed for what the copy does not know, nothing is recorded",
    "search.begun": "the first listing is on disk, nothing is looked at",
    "search.first_line": "the first line of a batch is read, whose it is is not recorded",
    "search.stranger": "a batch without any request of ours is on disk as a stranger's",
    "search.found": "a batch that the copy did not know is on disk and will be collected",
    "search.ended": "the search is over, that is on disk, nothing is submitted yet",
    # poller
    "tracker.seen": "upstream has told the state of a batch, nothing is recorded",
    "tracker.cancel_sent": "upstream was told to cancel a batch, nothing is recorded",
    "tracker.proved": "an adopted batch is proved by its nonce",
    "tracker.disowned": "an adopted batch has turned out to be another's",
    "tracker.ended": "a batch has ended, that is on disk, its results are not read",
    "tracker.missed": "upstream did not find a batch or its results, that is on disk",
    "tracker.gone": "a batch is gone upstream, its members have no outcome yet",
    "collector.stored": "one more chunk of results is on disk",
    "collector.failed": "results could not be read to their end, that is on disk",
    "collector.read": "every result of a batch is on disk, the batch is not finished",
    "collector.finished": "a batch is collected",
    # dispatcher
    "dispatcher.claimed": "deliveries are claimed, nothing is sent",
    "dispatcher.sent": "a webhook has answered, nothing is recorded",
    "dispatcher.recorded": "what came of an attempt is on disk",
    # keeper
    "keeper.looked": "the alarms are on disk",
    "keeper.deleted": "one chunk of what is old is deleted",
    "keeper.vacuumed": "some free pages are given back to the disk",
    # stopping
    "stop.ordered": "the order to stop is given, every loop may be in its step",
    "stop.finished": "every room has finished, the writer has not",
    "stop.written": "the writer has ended, the boot is not marked as stopped",
    "stop.ended": "the boot is marked as stopped and the log is moved, the file is open",
}
"""Every point, and what stands there."""


class FailpointReached(Exception):
    """Raised by the action ``raise``."""


class BadFailpoints(ValueError):
    """``UNHURRIED_FAILPOINTS`` cannot be understood; the text says why."""


def _kill(name: str, path: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(name: str, path: str) -> None:
    raise FailpointReached(name)


def _block(name: str, path: str) -> None:
    rendezvous = Path(path)
    rendezvous.touch()
    while rendezvous.exists():
        time.sleep(LOOK_S)


def _note(name: str, path: str) -> None:
    with Path(path).open("a") as notes:
        notes.write(f"{name}\n")


ACTIONS: Final[Mapping[str, Callable[[str, str], None]]] = {
    "kill": _kill, "raise": _raise, "block": _block, "note": _note
}  # fmt: skip
WITH_PATH: Final = frozenset({"block", "note"})


@dataclass
class Armed:
    action: str
    path: str
    at: int
    """The hit that counts; 0 is every one."""
    hits: Iterator[int] = field(default_factory=lambda: itertools.count(1))


_armed: dict[str, Armed] = {}


def failpoint(name: str) -> None:
    """Do here what a test has asked for, if one has."""
    if _armed and (found := _armed.get(name) or _armed.get(ANY)) is not None:
        hit = next(found.hits)
        if found.at in (0, hit):
            ACTIONS[found.action](name, found.path)


def arm(text: str | None) -> None:
    """Arm what ``UNHURRIED_FAILPOINTS`` says, and nothing else. Raises ``BadFailpoints``."""
    _armed.clear()
    _armed.update(map(_parsed, filter(None, (part.strip() for part in (text or "").split(",")))))


def armed() -> bool:
    return bool(_armed)


def _parsed(part: str) -> tuple[str, Armed]:
    name, _, rest = part.partition("=")
    done, _, hit = rest.partition("@")
    action, _, path = done.partition(":")
    if name != ANY and name not in POINTS:
        raise BadFailpoints(f"there is no failpoint {name!r}")
    if action not in ACTIONS or (action in WITH_PATH) != bool(path):
        raise BadFailpoints(f"a failpoint can kill, raise, block:PATH or note:PATH, not {done!r}")
    if hit and not (hit.isdecimal() and int(hit)):
        raise BadFailpoints(f"{hit!r} is not the number of a hit")
    return name, Armed(action, path, int(hit or (action != "note")))
