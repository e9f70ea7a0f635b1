"""What goes wrong in a store, as the rooms get to know it. What a database says itself ends in its own folder."""

from unhurried.loop import TryLater


class StoreUnusable(Exception):
    """The database cannot be used: wrong place, newer schema, damaged, or an I/O error. The daemon stops."""

    exit_code = 65


class StoreBusy(TryLater):
    """Too much waits to be written already. Nothing of the call was stored; try again after ``retry_after_s``."""

    def __init__(self, detail: str, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class StoreFull(TryLater):
    """No space for new work. Nothing of the call was stored; what was accepted before is safe."""

    retry_after_s = 30.0

    def __init__(self, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class AccountChanged(StoreUnusable):
    """The database is bound to another account and work is still open there."""


class NotRedeliverable(Exception):
    """It cannot be delivered again: it is under way, a newer one took its place, or there is no result any more."""


class NotNow(Exception):
    """A request cannot be sent again, or erased, as it is; the text says why. Nothing was changed."""
