"""What a caller is told when something is wrong: ``application/problem+json`` (RFC 9457) with a stable ``code``.

Texts are for people and may change; programs look at ``code``. The codes are in ``STATUS`` and nowhere else.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from unhurried.domain.request import KeyConflict, Refusal
from unhurried.store.errors import StoreBusy, StoreFull, StoreUnusable

MEDIA_TYPE: Final = b"application/problem+json"

STATUS: Final[dict[str, tuple[int, str]]] = {
    "invalid_json": (400, "The body is not JSON"),
    "not_found": (404, "There is no such thing"),
    "method_not_allowed": (405, "The method is not allowed here"),
    "idempotency_conflict": (409, "The idempotency key stands for another request"),
    "already_finished": (409, "The request has its outcome already"),
    "cannot_retry": (409, "The request cannot be sent again"),
    "cannot_erase": (409, "The request cannot be erased now"),
    "not_drained": (409, "There is work left"),
    "not_redeliverable": (409, "It cannot be delivered again"),
    "request_too_large": (413, "The body is too large"),
    "unsupported_media_type": (415, "The media type is not supported"),
    "invalid_request": (422, "The request cannot be accepted"),
    "invalid_params": (422, "The params cannot be accepted"),
    "queue_full": (429, "Too many requests are open"),
    "internal_error": (500, "The daemon made a mistake"),
    "busy": (503, "Too much waits to be written"),
    "draining": (503, "The daemon accepts nothing new"),
    "stalled": (503, "A part of the daemon hangs"),
    "store_unusable": (503, "The database cannot be used"),
    "storage_full": (507, "There is no space left"),
}
"""Every code with its HTTP status and its title."""

QUEUE_FULL_RETRY_S: Final = 30.0
DRAINING_RETRY_S: Final = 5.0


class Problem(Exception):
    """A refusal on its way to the caller. ``extra`` are further members of the JSON object."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        retry_after_s: float | None = None,
        allow: str | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status, self.title = STATUS[code]
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s
        self.allow = allow
        self.extra = extra

    def members(self) -> Mapping[str, Any]:
        """The JSON object, as it also stands in the answer to a line of a bulk upload."""
        members: dict[str, Any] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.field is not None:
            members["field"] = self.field
        return members | self.extra

    def body(self) -> bytes:
        return msgspec.json.encode(self.members())

    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", MEDIA_TYPE)]
        if self.retry_after_s is not None:
            headers.append((b"retry-after", str(max(1, math.ceil(self.retry_after_s))).encode()))
        if self.allow is not None:
            headers.append((b"allow", self.allow.encode()))
        return headers


def of(error: Exception) -> Problem:
    """What a caller is told of an error; one that we did not expect is a mistake of ours."""
    match error:
        case Problem():
            return error
        case Refusal():
            return from_refusal(error)
        case StoreBusy():
            return from_busy(error)
        case StoreFull():
            return from_full(error)
        case StoreUnusable():
            return Problem("store_unusable", str(error))
        case _:
            return Problem("internal_error", "the daemon made a mistake; its log says more")


def from_refusal(refusal: Refusal) -> Problem:
    return Problem(refusal.code, refusal.detail, field=refusal.field)


def from_conflict(conflict: KeyConflict) -> Problem:
    detail = f"this idempotency key was used for another body; request {conflict.id} has it"
    return Problem("idempotency_conflict", detail, field="idempotency_key", id=conflict.id)


def from_busy(busy: StoreBusy) -> Problem:
    return Problem(
        "busy", str(busy) or "too much waits to be written; nothing was stored", retry_after_s=busy.retry_after_s
    )


def from_full(full: StoreFull) -> Problem:
    detail = str(full) or "no space for new requests; what was accepted before is safe"
    return Problem("storage_full", detail, retry_after_s=full.retry_after_s)


def draining(**extra: Any) -> Problem:
    detail = "the daemon is being drained, or is going down, and accepts nothing new; what it accepted is safe"
    return Problem("draining", detail, retry_after_s=DRAINING_RETRY_S, **extra)


def queue_full(open_requests: int, limit: int, queue: str | None = None, **extra: Any) -> Problem:
    """``queue``: the one whose own limit it is."""
    where = f" in queue {queue}" if queue is not None else ""
    detail = f"{open_requests:,} requests are open{where}, the limit is {limit:,}"
    if queue is not None:
        extra = {"queue": queue, **extra}
    return Problem("queue_full", detail, retry_after_s=QUEUE_FULL_RETRY_S, **extra)


def too_large(limit: int) -> Problem:
    return Problem("request_too_large", f"the body is larger than {limit:,} bytes")
