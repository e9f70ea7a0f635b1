"""How many results a stream may have handed over that nobody has confirmed.

An ack comes by another connection than the stream. So what each stream has handed over is kept here by delivery id, in
memory only: a confirmation that is named here is a hint that makes room at once, the store remains the truth.
"""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from unhurried.clock import Ms


class Window:
    """What one stream has handed over under a lease and not heard of, oldest first."""

    def __init__(self, size: int, owners: dict[str, "Window"]) -> None:
        self.changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._size = size
        self._owners = owners
        self._leases: dict[str, Ms] = {}

    @property
    def room(self) -> int:
        return self._size - len(self._leases)

    def hand(self, delivery_ids: Iterable[str], lease_until: Ms) -> None:
        """Count these, too, until they are confirmed or until then. Later calls have later leases."""
        for id in delivery_ids:
            self._leases[id] = lease_until
            self._owners[id] = self

    def unconfirmed(self, now: Ms) -> Sequence[str]:
        """Those still in our hands. What a lease has ended for may be in another's by now, and is forgotten."""
        over = [id for id, until in self._leases.items() if until <= now]
        self.drop(over)
        return list(self._leases)

    def next_lease_end(self) -> Ms | None:
        return next(iter(self._leases.values()), None)

    def drop(self, delivery_ids: Collection[str]) -> None:
        """These are no longer in our hands."""
        for id in delivery_ids:
            if self._leases.pop(id, None) is not None and self._owners.get(id) is self:
                del self._owners[id]
        if delivery_ids:
            self.wake()

    def rearm(self) -> None:
        """Before a look: a change from here on is kept for after it."""
        if self.changed.done():
            self.changed = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        if not self.changed.done():
            self.changed.set_result(None)


class Windows:
    """Those of all streams."""

    def __init__(self) -> None:
        self._owners: dict[str, Window] = {}
        self._open: set[Window] = set()

    @contextmanager
    def open(self, size: int) -> Iterator[Window]:
        window = Window(size, self._owners)
        self._open.add(window)
        try:
            yield window
        finally:
            self._open.discard(window)
            window.drop(list(window._leases))  # noqa: SLF001  # the one place that ends it

    def confirmed(self, delivery_ids: Iterable[str]) -> None:
        """Hint that these were confirmed. Costs nothing while there is no stream."""
        if not self._owners:
            return
        for id in delivery_ids:
            if (window := self._owners.get(id)) is not None:
                window.drop((id,))

    def wake(self) -> None:
        """Let every stream look whether it is still to go on."""
        for window in self._open:
            window.wake()
