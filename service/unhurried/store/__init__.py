"""All SQL. ``contract`` says what the other rooms may ask for, in intents; ``sqlite`` is the one that answers."""

from unhurried.store.contract import Store, StoreBusy, StoreFull, StoreUnusable

__all__ = ["Store", "StoreBusy", "StoreFull", "StoreUnusable"]
