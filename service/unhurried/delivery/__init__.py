"""Webhooks on their way out: one signed POST for each attempt, to addresses that may be dialled, and what came of it.

    dispatcher ──▶ webhooks ──▶ dialing ──▶ httpcore2 ──▶ network        the path of an attempt
                      │            ├─ names      host names → addresses, off the event loop
                      │            ├─ sockets    which Unix sockets may be connected to
                      │            └─ bounded    an answer has so many bytes and no more
                      ├─ signing   the secrets, read at each attempt, and the headers of Standard Webhooks
                      └─ failures  what a receiver or the network can do wrong, in words

A receiver is a stranger. Whatever it does costs one attempt a bounded time and a bounded number of bytes, and nothing
it says leads anywhere: redirects are not followed, bodies are neither kept nor decoded, and environment variables name
no proxy. When to try again, and whether, is decided in ``domain.delivering``; nothing here keeps a schedule.
"""

from unhurried.delivery.webhooks import Webhooks

__all__ = ["Webhooks"]
