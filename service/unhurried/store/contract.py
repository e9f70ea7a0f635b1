"""What the rooms may ask of a store, in intents. Each method is one transaction unless it says otherwise.

Every change of state is guarded by the state it expects; a method whose guard fails changes nothing and says so.
A cancelled caller changes nothing on disk either way: what was handed to the writer is carried out.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from unhurried.clock import Ms
from unhurried.domain.alarms import Alarm
from unhurried.domain.batch import Batch, BatchId, UpstreamId
from unhurried.domain.delivering import Outcome
from unhurried.domain.grouping import Group, Order
from unhurried.domain.queue import Queue
from unhurried.domain.request import Accepted, KeyConflict, NewRequest
from unhurried.domain.restoring import Restored
from unhurried.domain.settling import Doubt, Known, Sighting
from unhurried.domain.submitting import Refused
from unhurried.store.records import (
    Account,
    Acked,
    AttemptView,
    BatchView,
    Claimed,
    Complaint,
    DeliveryFilter,
    DeliveryPage,
    DeliveryView,
    Destination,
    Event,
    Flushed,
    Handed,
    OpenBatch,
    Page,
    Redelivered,
    RequestFilter,
    RequestPage,
    RequestView,
    RetryCandidate,
    RetryFilter,
    Status,
    StoredResults,
    Work,
)


class IngestStore(Protocol):
    work: Work

    async def accept(self, requests: Sequence[NewRequest]) -> Sequence[Accepted | KeyConflict]:
        """Store new requests; when this returns they are on disk. One answer each, in their order.
        Raises ``StoreBusy`` or ``StoreFull``, and then none of them was stored."""
        ...

    async def request(self, request_id: str) -> RequestView | None: ...

    async def requests(self, filter: RequestFilter, cursor: str | None, limit: int) -> RequestPage: ...

    async def attempts_of(self, request_id: str) -> Sequence[AttemptView] | None:
        """Every batch that a request has been in, oldest first. None: there is no such request."""
        ...

    async def result(self, request_id: str) -> Handed | None:
        """The outcome of a request; None while it is open or unknown."""
        ...

    async def results_of(self, request_ids: Sequence[str], bytes_max: int) -> Sequence[Handed]:
        """The outcomes of those that have one, in the order asked, until ``bytes_max`` of bodies are reached."""
        ...

    async def cancel(self, request_id: str, actor: str, now: Ms) -> RequestView | None:
        """Cancel a queued request at once, flag an assigned one; a finished one stays as it is. None: no such one."""
        ...

    async def pull(
        self, destination: str, *, limit: int, bytes_max: int, lease_s: float, now: Ms, after_seq: int = 0
    ) -> Sequence[Handed]:
        """Hand out pending results, oldest first, under a lease; at least one if there is any. ``after_seq``: only
        those whose ``seq`` is larger."""
        ...

    async def give_back(self, delivery_ids: Sequence[str], now: Ms) -> int:
        """The caller that was handed these has gone: those not confirmed can be pulled again at once."""
        ...

    async def still_out(self, delivery_ids: Sequence[str]) -> frozenset[str]:
        """Those of them that are handed out and not confirmed."""
        ...

    async def ack(self, delivery_ids: Sequence[str], confirmed_by: str, now: Ms) -> Acked: ...

    async def ask_flush(self, queue: str | None, model: str | None, actor: str, now: Ms) -> Flushed: ...

    async def batches(self, *, open_only: bool, before: str | None, limit: int) -> Sequence[BatchView]:
        """Newest first, those made before batch id ``before``."""
        ...

    async def batch(self, batch_id: BatchId) -> BatchView | None: ...

    async def events(self, entity_id: str | None, limit: int, since: Ms | None = None) -> Sequence[Event]:
        """The last ``limit`` ones, oldest of them first, without what was before ``since``."""
        ...

    async def status(self) -> Status: ...

    async def resume_account(self, actor: str, now: Ms) -> bool: ...

    async def release_restored(self, actor: str, now: Ms) -> bool:
        """Send again, though the search after a restore is not over; it goes on. False: nothing is held back."""
        ...

    def open_requests(self) -> int:
        """How many requests have no outcome yet, as of the last commit, without asking the disk."""
        ...


class DestinationStore(Protocol):
    async def destinations(self, after: str, limit: int) -> Sequence[Destination]:
        """By name, those behind ``after``; the empty string is before them all."""
        ...

    async def destination(self, name: str) -> Destination | None: ...

    async def webhook_names(self) -> Sequence[str]: ...

    async def put_webhook(
        self, name: str, url: str, secrets: Sequence[str], concurrency: int | None, actor: str, now: Ms
    ) -> bool:
        """Add a webhook, or change the one of that name. True when it is new. Attempts that are under way still go
        where it stood; every later one goes where it stands now."""
        ...

    async def pause_destination(self, name: str, reason: str, actor: str, now: Ms) -> bool | None:
        """Attempt nothing there until it is resumed. False: it is paused already; None: there is no such webhook."""
        ...

    async def resume_destination(self, name: str, actor: str, now: Ms) -> bool | None:
        """End a pause, whoever made it, and forget the failures before it. One that is not paused is tried once, now,
        and nothing is forgotten. False: there was nothing to end."""
        ...

    async def deliveries(self, filter: DeliveryFilter, cursor: str | None, limit: int) -> DeliveryPage: ...

    async def delivery(self, delivery_id: str) -> DeliveryView | None: ...

    async def redeliver(self, delivery_id: str, actor: str, now: Ms) -> DeliveryView | None:
        """Deliver a result again, as a new delivery with an id of its own; a pending or dead one it replaces is
        canceled. None: there is no such delivery. Raises ``NotRedeliverable``."""
        ...

    async def redeliver_many(
        self, filter: DeliveryFilter, cursor: tuple[int, int] | None, actor: str, now: Ms, *, dry_run: bool
    ) -> Redelivered:
        """One bounded step through the deliveries that ``filter`` names, from ``cursor`` (None: the first) on. Those
        under way are left alone. A walk that was cut short may be begun anew: what it replaced is not found again."""
        ...


class SteeringStore(Protocol):
    async def queues(self) -> Sequence[Queue]:
        """All of them, by name."""
        ...

    async def queue(self, name: str) -> Queue | None: ...

    async def change_queue(self, name: str, changes: Mapping[str, Any], actor: str, now: Ms) -> Queue:
        """Store settings that were checked (``domain.queue.check_changes``); the queue is made if it is new."""
        ...

    async def pause_queue(self, name: str, reason: str, actor: str, now: Ms) -> Queue | None:
        """None: there is no such queue."""
        ...

    async def resume_queue(self, name: str, actor: str, now: Ms) -> bool | None:
        """False: it was not paused; None: there is no such queue."""
        ...

    def open_requests_of(self, queue_id: int) -> int:
        """The same as ``open_requests`` for one queue."""
        ...

    async def note_drain(self, draining: bool, actor: str, now: Ms) -> None: ...

    async def retry_candidates(
        self, filter: RetryFilter, before: int | None
    ) -> tuple[Sequence[RetryCandidate], int | None]:
        """Those among the next outcomes, newest first, and where to go on (None: at the end). One bounded step: a page
        can be empty and not be the last."""
        ...

    async def retry(self, request_id: str, *, wait_s: float | None, default_s: float, actor: str, now: Ms) -> None:
        """Queue a request again that came to no good end, as a new generation, due in ``wait_s`` or as its queue says
        or in ``default_s``. Raises ``NotNow``."""
        ...

    async def retry_many(
        self, found: Sequence[RetryCandidate], *, wait_s: float | None, default_s: float, actor: str, now: Ms
    ) -> int:
        """The same for some, in one transaction, with one event for each queue; those that cannot be are left as they
        are. Returns how many were queued."""
        ...

    async def erase(self, request_id: str, actor: str, now: Ms) -> bool:
        """Take the contents of a request out: params, result, metadata, names. Raises ``NotNow``. False: the bytes are
        still in the write-ahead log, because somebody reads; ``empty_log`` has to be tried again."""
        ...


class WatchedStore(Protocol):
    """What health and metrics look at."""

    work: Work

    async def status(self) -> Status: ...

    def waiting_writes(self) -> tuple[int, int]:
        """How many writes wait for their commit, and their bytes, without asking the disk."""
        ...

    async def touch(self) -> None:
        """Go through the writer and change nothing: when this returns, writes get through."""
        ...


class FlusherStore(Protocol):
    async def wake_waiting(self, now: Ms) -> Ms | None:
        """Let those whose ``waits_until`` has come wait to be sent. Returns the next such moment."""
        ...

    async def groups(self) -> Sequence[Group]: ...

    async def turnarounds(self) -> dict[str, Sequence[float]]:
        """Seconds from creation to end of the last batches of each model."""
        ...

    async def formed_ahead(self) -> int:
        """Complete batches that wait for their turn to be submitted."""
        ...

    async def begin_batch(self, order: Order, nonce: str, now: Ms) -> BatchId: ...

    async def add_members(self, batch_id: BatchId, *, requests_max: int, bytes_max: int, chunk: int, now: Ms) -> int:
        """Move up to ``chunk`` waiting requests of its group into a forming batch, by priority, then age. Returns how
        many; 0 when it is full or nothing waits."""
        ...

    async def complete_batch(self, batch_id: BatchId, now: Ms) -> Batch | None:
        """Freeze the members and record their digest; an empty batch is dissolved and None returned."""
        ...

    async def unfinished(self) -> Sequence[BatchId]:
        """Batches that a kill left half formed."""
        ...

    async def account(self) -> Account | None: ...

    async def sizes_in_doubt(self) -> frozenset[int]: ...


class SearchStore(Protocol):
    """After a restore: looking for what was sent since the copy was made."""

    async def restored(self) -> Restored | None:
        """The search that is not over; None when there is none."""
        ...

    async def record_first_look(self, date: Ms, now: Ms) -> None: ...

    async def record_wait(self, detail: str) -> None: ...

    async def first_known(self, request_ids: Sequence[str]) -> str | None:
        """One of these ids that belongs to a request of ours."""
        ...

    async def record_found(self, sighting: Sighting, nonce: str, request_id: str, now: Ms) -> bool:
        """An ended batch that carries this request of ours, sent after the copy was made: it will be collected, the
        first outcome wins. False when it is known meanwhile."""
        ...

    async def note_unknown(self, sighting: Sighting, why: str, unknown_requests: int, now: Ms) -> None:
        """A batch without any request of ours; so many in it look like ours."""
        ...

    async def still_collecting(self) -> int:
        """How many batches were found and are not collected yet."""
        ...

    async def anything_at_risk(self, newest_request: int) -> bool:
        """Whether any request up to that one could still be sent."""
        ...

    async def end_search(self, why: str, now: Ms) -> bool: ...


class SubmissionStore(SearchStore, Protocol):
    async def account(self) -> Account | None: ...

    async def next_formed(self) -> Batch | None: ...

    async def sizes_in_doubt(self) -> frozenset[int]: ...

    async def waiting_upstream(self) -> int:
        """Members of batches that upstream may still have to process."""
        ...

    async def drop_last_member(self, batch_id: BatchId, now: Ms) -> Batch | None:
        """Put the last member of a formed batch back into the queue, so that its size differs from one in doubt."""
        ...

    async def record_submission(self, batch_id: BatchId, window_from: Ms, now: Ms) -> Batch | None:
        """The intent to POST, on disk before the POST. None when the batch is no longer there to be submitted."""
        ...

    def body(self, batch: Batch, *, bytes_page: int) -> AsyncIterator[bytes]:
        """The body that creates the batch, exactly ``batch.body_bytes`` long, in pages of about ``bytes_page``. Each
        page is read and closed before it is handed out: no cursor stays open while the network is waited for."""
        ...

    async def record_created(self, batch_id: BatchId, upstream_id: UpstreamId, created_at: Ms, now: Ms) -> None: ...

    async def record_refused(self, batch_id: BatchId, refused: Refused, pause_until: Ms | None, now: Ms) -> None: ...

    async def record_unknown(self, batch_id: BatchId, detail: str, now: Ms) -> None: ...

    async def release_members(self, chunk: int, now: Ms) -> int:
        """Put members of batches that came to nothing back into the queue, ``chunk`` at a time. Returns how many."""
        ...

    async def doubts(self) -> Sequence[Doubt]: ...

    async def known_ids(self, since: Ms) -> Known:
        """Upstream ids, of batches made since then, that are ours or strangers'."""
        ...

    async def record_look(self, batch_id: BatchId, date: Ms, *, absent: bool, window_to: Ms, now: Ms) -> None:
        """What a complete listing showed of a batch in doubt: since when it is absent, or that it may be there after
        all. The first look also bounds the window in which it can have been made."""
        ...

    async def adopt(self, batch_id: BatchId, sighting: Sighting, *, proved: bool, now: Ms) -> None: ...

    async def abandon(self, batch_id: BatchId, reason: str, now: Ms) -> None: ...

    async def disown(self, batch_id: BatchId, why: str, *, stranger: bool, now: Ms) -> None:
        """What was adopted for this batch is another's: ours is unknown again. ``stranger``: not of ours at all."""
        ...

    async def note_stranger(self, upstream_id: UpstreamId, why: str, now: Ms) -> None: ...

    async def batch_by_nonce(self, nonce: str) -> Batch | None: ...

    async def harvest_twin(self, batch_id: BatchId, sighting: Sighting, now: Ms) -> None:
        """An abandoned batch exists upstream after all: collect it."""
        ...

    async def given_up(self, since: Ms) -> Sequence[Doubt]:
        """Batches abandoned after a POST that was made since then: a twin of them may still turn up."""
        ...

    async def record_sweep(self, now: Ms) -> None: ...

    async def record_workspace(self, workspace: str) -> None:
        """Raises ``AccountChanged`` when open work belongs to another workspace."""
        ...

    async def pause_account(self, reason: str, until: Ms | None, actor: str, now: Ms) -> None:
        """Submit nothing until then (None: until an operator resumes). Counts as one more refusal in a row."""
        ...


class PollerStore(Protocol):
    async def open_batches(self) -> Sequence[OpenBatch]:
        """Batches that exist upstream and still owe results, oldest first."""
        ...

    async def require_room_for_results(self) -> None:
        """Raises ``StoreFull`` while results could not be stored; before they are fetched."""
        ...

    async def record_seen(self, batch_id: BatchId, sighting: Sighting, now: Ms) -> None:
        """It was found upstream (again): in progress or canceling."""
        ...

    async def record_ended(self, batch_id: BatchId, sighting: Sighting, now: Ms) -> None: ...

    async def record_not_found(self, batch_id: BatchId, now: Ms) -> None: ...

    async def record_other_answer(self, batch_id: BatchId) -> None: ...

    async def record_gone(self, batch_id: BatchId, reason: str, now: Ms) -> None: ...

    async def record_cancel_sent(self, batch_id: BatchId, now: Ms) -> None: ...

    async def prove(self, batch_id: BatchId, now: Ms) -> None: ...

    async def store_results(self, batch_id: BatchId, lines: Sequence[bytes], now: Ms) -> StoredResults:
        """Record a chunk of result lines: attempts, outcomes and the deliveries they cause, all or none. Raises
        ``BadLine`` when one cannot be read."""
        ...

    async def record_read_failure(self, batch_id: BatchId, detail: str, next_try_at: Ms, now: Ms) -> None: ...

    async def record_unknown_requests(self, batch_id: BatchId, count: int, now: Ms) -> None:
        """So many lines of a batch that was found after a restore are of requests that the copy does not know."""
        ...

    async def finish_collecting(self, batch_id: BatchId, chunk: int, now: Ms) -> bool:
        """All lines are stored: error the members that had none, ``chunk`` at a time. True when it is collected."""
        ...


class DispatcherStore(Protocol):
    async def return_lapsed(self, now: Ms) -> tuple[int, Ms | None]:
        """Make results whose lease has run out available again. Returns how many, and when the next lease ends."""
        ...

    async def open_webhooks(self) -> Sequence[Destination]:
        """Webhooks that are not paused and have something pending."""
        ...

    async def claim(self, wanted: Mapping[int, int], lease_s: float, now: Ms) -> Sequence[Claimed]:
        """Take up to so many due deliveries of each destination (by id) to be attempted now: the intent, on disk. Of
        one that is paused or whose breaker is open none. A bounded number: ask again until there is none."""
        ...

    async def record_outcome(
        self,
        claimed: Claimed,
        outcome: Outcome,
        *,
        next_lease_s: float | None,
        jitter: float,
        disable_after_s: float,
        now: Ms,
    ) -> Claimed | None:
        """What came of an attempt: delivered, to be tried again, dead, or the destination paused; and its breaker. Once
        delivered, with ``next_lease_s``, the next due delivery of the destination is claimed in the same breath."""
        ...


class KeeperStore(Protocol):
    async def forget_keys(self, now: Ms, chunk: int) -> int: ...

    async def status(self) -> Status: ...

    async def open_batches(self) -> Sequence[OpenBatch]: ...

    async def queues(self) -> Sequence[Queue]: ...

    async def alarms(self) -> Sequence[Alarm]: ...

    async def paused_since(self) -> Ms | None:
        """Since when the account has been paused, however often the pause was renewed."""
        ...

    async def record_alive(self, now: Ms) -> None:
        """Write down that this boot is at work, for whoever looks at the database after it has died."""
        ...

    async def record_alarms(self, current: Sequence[Alarm], now: Ms) -> tuple[Sequence[Alarm], Sequence[Alarm]]:
        """Make these the alarms that are on. Returns those that have begun and those that have ended by it."""
        ...

    async def forget_outcomes(
        self, after_seq: int, rows: int, *, retention_s: float, unread_s: float | None, now: Ms
    ) -> Page:
        """One step of a walk over all outcomes in the order of time: delete the requests whose time is over, and cancel
        deliveries that nobody has fetched. The times are the daemon's, for queues that have none."""
        ...

    async def forget_batches(self, after_seq: int, rows: int, now: Ms) -> Page:
        """The same for batches that have lost all their members, and their events."""
        ...

    async def forget_events(self, after_seq: int, rows: int, *, days: float, now: Ms) -> Page: ...

    async def trim(self, chunk: int, now: Ms) -> None:
        """Delete what is of no use any more in short tables: strangers, boots."""
        ...

    async def free_bytes(self) -> int:
        """Free space within the database file."""
        ...

    async def vacuum(self, pages: int) -> int:
        """Give up to so many free pages back to the file system. Returns how many are left."""
        ...

    async def empty_log(self, *, only_owed: bool = False) -> bool:
        """Move everything from the write-ahead log into the database and cut it to nothing. False: somebody reads from
        it just now. ``only_owed``: only if an erased request is still in it."""
        ...


class Store(
    IngestStore,
    WatchedStore,
    DestinationStore,
    SteeringStore,
    FlusherStore,
    SubmissionStore,
    PollerStore,
    DispatcherStore,
    KeeperStore,
    Protocol,
):
    """Everything. A room takes the narrow protocol of its own."""

    epoch: int

    async def bind_account(self, base_url: str, now: Ms) -> None:
        """Raises ``AccountChanged`` when the database belongs to another account and anything is open."""
        ...

    async def recover(self, now: Ms) -> dict[str, int]:
        """Take over what an older process left behind. Returns what was reclaimed, by kind."""
        ...

    async def complaints(self) -> Sequence[Complaint]: ...

    async def close(self, *, clean: bool, now: Ms) -> None: ...
