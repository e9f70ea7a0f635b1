"""What each part of ``SqliteStore`` leans on: one write, one read. ``store.py`` says how they are made."""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from unhurried.store.sqlite.tx import Tx

T = TypeVar("T")


class Part(ABC):
    @abstractmethod
    async def _write(self, work: Callable[[Tx], T], *, size: int = 512, weight: int = 1) -> T: ...

    @abstractmethod
    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T: ...
