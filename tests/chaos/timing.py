"""The times of one world: how fast upstream's clock runs, and the bounds that faults must keep.

Nothing is paid twice as far as upstream's list tells the truth within the settlement time: that is the promise. So
faults that hide or delay a batch stay within ``LATE_S``, by upstream's clock; all else may take as long as it likes.
The settlement asks that both clocks have passed the grace; ``Date`` has whole seconds, hence the one that is taken off.
"""

from typing import Final

SPEED: Final = 4.0
"""Simulated seconds per real second."""
GRACE_S: Final = 2.5
ABSENT_S: Final = 8.0
NOT_FOUND_GRACE_S: Final = 4.0
STOP_S_MAX: Final = 1.2
"""Of a process that stands still: with a second less than the grace it cannot stretch one look into two."""
LATE_S: Final = GRACE_S - 1.0 - 0.3
"""Simulated: how late a batch may appear, by all that hides it together."""
NOT_YET_S: Final = 4.0
"""Simulated: how long a batch that exists may be answered by 404; a second of ours, of four that mean gone."""
DATE_SKEW_S: Final = 4.0
"""Simulated: half of ``ABSENT_S``, which is what the window leaves on its far side."""
TWIN_S: Final = 24.0
"""Simulated: later than any settlement here waits. What comes so late is a late twin, to be counted and reported."""

SETTINGS: Final = {
    "UNHURRIED_SUBMISSION__SETTLE_GRACE_S": f"{GRACE_S}",
    "UNHURRIED_SUBMISSION__SETTLE_ABSENT_S": f"{ABSENT_S}",
    "UNHURRIED_SUBMISSION__SWEEP_S": "1",
    "UNHURRIED_SUBMISSION__PAUSE_S": "0.5",
    "UNHURRIED_SUBMISSION__UNREACHABLE_PAUSE_S": "0.2",
    "UNHURRIED_SUBMISSION__PAUSE_MAX_S": "1",
    "UNHURRIED_POLLER__INTERVAL_MIN_S": "0.1",
    "UNHURRIED_POLLER__INTERVAL_MAX_S": "0.4",
    "UNHURRIED_POLLER__RETRY_PAUSE_S": "0.2",
    "UNHURRIED_POLLER__RETRY_PAUSE_MAX_S": "1",
    "UNHURRIED_POLLER__NOT_FOUND_GRACE_S": f"{NOT_FOUND_GRACE_S}",
    "UNHURRIED_POLLER__CHUNK_RESULTS": "10",
    "UNHURRIED_FLUSHER__CHUNK_REQUESTS": "7",
    "UNHURRIED_INGEST__LEASE_S": "2",
    "UNHURRIED_DELIVERY__TIMEOUT_S": "1",
    "UNHURRIED_DELIVERY__ALLOWED_NETWORKS": '["127.0.0.0/8"]',
    "UNHURRIED_STORE__WAL_BYTES_MAX": "1000000",
    "UNHURRIED_KEEPER__VACUUM_BYTES": "0",
    "UNHURRIED_UPSTREAM__SIMULATOR": "true",
    "UNHURRIED_UPSTREAM__QUEUE_REQUESTS_MAX": "1000000",
    "UNHURRIED_UPSTREAM__READ_TIMEOUT_S": "5",
    "UNHURRIED_UPSTREAM__WRITE_TIMEOUT_S": "5",
    "UNHURRIED_GRACE_S": "5",
}
"""Of every daemon here: minutes become seconds, and chunks are small so that there is much between two commits."""
