"""All SQL. ``contract`` says what the other rooms may ask for, in intents; ``records`` and ``errors`` are its words;
``sqlite`` answers."""

from unhurried.store.contract import Store
from unhurried.store.errors import StoreBusy, StoreFull, StoreUnusable

__all__ = ["Store", "StoreBusy", "StoreFull", "StoreUnusable"]
