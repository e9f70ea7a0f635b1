"""The states, and the one table of which may follow which.

The store makes every change by a guarded statement (``… where … and state = ?``). A change of a batch is asked of
``check`` first, so one that is not in the table cannot be written. Requests, attempts and deliveries change many at a
time, in statements that name their states; the tests of the store record every change these make and compare it with
the table. ``docs/architecture.md`` shows the same table as a picture.
"""

from enum import StrEnum
from typing import Final


class RequestState(StrEnum):
    QUEUED = "queued"
    """Waiting to be put into a batch. The flusher moves it on; a retry of an outcome leads back here."""
    ASSIGNED = "assigned"
    """Member of a committed batch; upstream has not confirmed it."""
    SUBMITTED = "submitted"
    """Member of a batch whose upstream id is committed. Never stored: it is ``assigned`` seen through such a batch,
    so that confirming a batch of 100,000 changes one row and the two can never disagree."""
    SUCCEEDED = "succeeded"
    ERRORED = "errored"
    EXPIRED = "expired"
    CANCELED = "canceled"


class BatchState(StrEnum):
    FORMING = "forming"
    """Members are being added, or all are there and it waits for its turn to be submitted. Upstream knows nothing."""
    SUBMITTING = "submitting"
    """The intent to POST is on disk. After a restart nobody knows whether the POST was made: it becomes unknown."""
    UNKNOWN = "unknown"
    """The POST may or may not have created a batch. The settlement finds out; nothing is sent again before."""
    IN_PROGRESS = "in_progress"
    CANCELING = "canceling"
    ENDED = "ended"
    """Upstream has finished it; results are being collected."""
    COLLECTED = "collected"
    """Every member is accounted for."""
    DISSOLVED = "dissolved"
    """Taken apart before any POST; its members are back in the queue."""
    REFUSED = "refused"
    """Upstream said a definite no; its members are back in the queue, or errored if they were the cause."""
    ABANDONED = "abandoned"
    """Proved never created, or given up by an operator. A late twin can still bring it back to ``ended``."""
    GONE = "gone"
    """Deleted upstream, or its results are past their time: its members are errored ``batch_gone``."""


class AttemptState(StrEnum):
    OPEN = "open"
    SUCCEEDED = "succeeded"
    ERRORED = "errored"
    CANCELED = "canceled"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    """Its batch was dissolved, refused or abandoned: the request travels, or has traveled, in another."""


class DeliveryState(StrEnum):
    PENDING = "pending"
    SENDING = "sending"
    """Handed out under a lease (pull), or being sent."""
    DELIVERED = "delivered"
    DEAD = "dead"
    CANCELED = "canceled"


FINAL_REQUEST_STATES: Final = frozenset(
    {RequestState.SUCCEEDED, RequestState.ERRORED, RequestState.EXPIRED, RequestState.CANCELED}
)
UPSTREAM_BATCH_STATES: Final = frozenset({BatchState.IN_PROGRESS, BatchState.CANCELING, BatchState.ENDED})
"""States in which the batch exists upstream and still owes us results."""
WAITING_BATCH_STATES: Final = frozenset(
    {BatchState.SUBMITTING, BatchState.UNKNOWN, BatchState.IN_PROGRESS, BatchState.CANCELING}
)
"""States in which the members may stand in upstream's queue and count against its limit."""
FINAL_BATCH_STATES: Final = frozenset(
    {BatchState.COLLECTED, BatchState.DISSOLVED, BatchState.REFUSED, BatchState.ABANDONED, BatchState.GONE}
)

_R, _B, _A, _D = RequestState, BatchState, AttemptState, DeliveryState

TRANSITIONS: Final[dict[type[StrEnum], frozenset[tuple[StrEnum, StrEnum]]]] = {
    RequestState: frozenset(
        {
            (_R.QUEUED, _R.ASSIGNED),
            (_R.QUEUED, _R.EXPIRED),
            (_R.QUEUED, _R.CANCELED),
            (_R.QUEUED, _R.ERRORED),
            (_R.QUEUED, _R.SUCCEEDED),  # a late twin answers a request that was queued again
            (_R.ASSIGNED, _R.QUEUED),  # refused, dissolved, abandoned, or a retryable outcome with attempts left
            (_R.ASSIGNED, _R.SUCCEEDED),
            (_R.ASSIGNED, _R.ERRORED),
            (_R.ASSIGNED, _R.EXPIRED),
            (_R.ASSIGNED, _R.CANCELED),
            (_R.ERRORED, _R.QUEUED),  # these three: an operator's retry, a new generation
            (_R.EXPIRED, _R.QUEUED),
            (_R.CANCELED, _R.QUEUED),
        }
    ),
    BatchState: frozenset(
        {
            (_B.FORMING, _B.SUBMITTING),
            (_B.FORMING, _B.DISSOLVED),
            (_B.SUBMITTING, _B.IN_PROGRESS),
            (_B.SUBMITTING, _B.REFUSED),
            (_B.SUBMITTING, _B.UNKNOWN),
            (_B.UNKNOWN, _B.IN_PROGRESS),
            (_B.UNKNOWN, _B.ABANDONED),
            (_B.IN_PROGRESS, _B.UNKNOWN),  # adopted, and then its first result line showed another's nonce
            (_B.IN_PROGRESS, _B.CANCELING),
            (_B.IN_PROGRESS, _B.ENDED),
            (_B.IN_PROGRESS, _B.GONE),
            (_B.CANCELING, _B.ENDED),
            (_B.CANCELING, _B.GONE),
            (_B.ENDED, _B.COLLECTED),
            (_B.ENDED, _B.GONE),
            (_B.ABANDONED, _B.ENDED),  # a late twin: harvested, the first outcome wins
        }
    ),
    AttemptState: frozenset(
        (before, after)
        for before in (_A.OPEN, _A.SUPERSEDED)  # superseded, and answered all the same: a late twin
        for after in (_A.SUCCEEDED, _A.ERRORED, _A.CANCELED, _A.EXPIRED)
    )
    | {(_A.OPEN, _A.SUPERSEDED)},
    DeliveryState: frozenset(
        {
            (_D.PENDING, _D.SENDING),
            (_D.PENDING, _D.DELIVERED),  # confirmed by a caller that waited, or acknowledged after its lease
            (_D.PENDING, _D.CANCELED),
            (_D.SENDING, _D.PENDING),
            (_D.SENDING, _D.DELIVERED),
            (_D.SENDING, _D.DEAD),
            (_D.SENDING, _D.CANCELED),  # its request was sent again or erased while a caller had it in hand
            (_D.DEAD, _D.DELIVERED),  # its caller had it all the same, and says so
            (_D.DEAD, _D.CANCELED),  # delivered again: the new delivery takes its place
        }
    ),
}


class IllegalTransition(Exception):
    """A change that the table does not know: a bug of ours, never a user's mistake."""


def check(old: StrEnum, new: StrEnum) -> None:
    """Raise ``IllegalTransition`` unless ``new`` may follow ``old``."""
    if (old, new) not in TRANSITIONS[type(old)]:
        raise IllegalTransition(f"{type(old).__name__}: {old} → {new}")
