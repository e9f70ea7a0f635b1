"""A sidecar for Claude work that is in no hurry.

Requests come in over a local Unix socket, are written to a durable queue, travel upstream in Message Batches at half
the price, and every result is handed back. Nothing is lost by a crash and nothing is paid for twice.

    caller ──▶ ingest ──▶ ┌───────┐ ──▶ flusher ──▶ submission ──▶ upstream    queued → assigned → submitted
                          │ store │ ◀── poller  ◀───────────────── upstream    submitted → succeeded | errored | …
                          └───────┘ ──▶ dispatcher ──▶ caller                  pending → delivered
                              ▲
                              └────── keeper: checkpoints, expired keys

The rooms, top down (each imports only what stands below it; ``lint-imports`` proves it):

``cli``            one file per command; talks to the daemon over the socket
``app``            builds the rooms, joins them, starts and stops them
``ingest``         HTTP on the socket: store first, answer second
``flusher`` ``submission`` ``poller`` ``dispatcher`` ``keeper``
                   one loop each; they meet in the store and nowhere else
``observability``  log set-up; health and status as read-only views of the store
``store``          all SQL
``upstream``       all calls to Anthropic; SDK types and exceptions end there
``domain``         types, states and every decision, as pure functions of their arguments
``simulator``      the other side: a fake Anthropic API over real HTTP
``clock`` ``counting`` ``loop`` ``settings``
                   small tools that every room may use
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unhurried.client import Client

__version__ = "0.1.0"
__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> object:
    """``unhurried.Client``, imported when it is asked for: the daemon and ``--help`` do without its HTTP library."""
    if name == "Client":
        from unhurried.client import Client  # noqa: PLC0415

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
