"""Upstream's JSON as domain values. Lenient about what is new, strict about what the settlement relies on: a page that
cannot be read must never pass for a page without our batch."""

from typing import Annotated, Final, TypeVar

import msgspec

from unhurried.clock import Ms, parse_rfc3339
from unhurried.domain.batch import UpstreamId
from unhurried.domain.settling import Sighting

T = TypeVar("T")


class BadShape(Exception):
    """Upstream's answer is not what it documents. The text names the field, never a value."""


Count = Annotated[int, msgspec.Meta(ge=0, le=10**9)]
"""A batch has 100,000 requests; beyond what a column holds, a number could not be stored."""


class _Counts(msgspec.Struct):
    processing: Count
    succeeded: Count
    errored: Count
    canceled: Count
    expired: Count

    @property
    def total(self) -> int:
        return self.processing + self.succeeded + self.errored + self.canceled + self.expired


class _Batch(msgspec.Struct):
    id: str
    processing_status: str
    request_counts: _Counts
    created_at: str
    expires_at: str
    ended_at: str | None = None
    results_url: str | None = None
    archived_at: str | None = None


class _Page(msgspec.Struct):
    data: list[_Batch]
    has_more: bool


class _New(msgspec.Struct):
    id: str
    created_at: str | None = None


_batches: Final = msgspec.json.Decoder(_Batch)
_pages: Final = msgspec.json.Decoder(_Page)
_news: Final = msgspec.json.Decoder(_New)


def sighting(body: bytes) -> Sighting:
    """Raises ``BadShape``."""
    return _sighting(_decode(_batches, body))


def page(body: bytes) -> tuple[list[Sighting], bool]:
    """The batches of one page and whether there are more. Raises ``BadShape``."""
    found = _decode(_pages, body)
    return [_sighting(batch) for batch in found.data], found.has_more


def new_batch(body: bytes) -> tuple[UpstreamId, Ms | None]:
    """The id in the answer to a create, and when it was made if that can be read. Raises ``BadShape`` without an id."""
    found = _decode(_news, body)
    if not found.id:
        raise BadShape("the id is empty")
    try:
        created_at = parse_rfc3339(found.created_at) if found.created_at else None
    except ValueError:
        created_at = None
    return UpstreamId(found.id), created_at


def _sighting(batch: _Batch) -> Sighting:
    try:
        created_at, expires_at = parse_rfc3339(batch.created_at), parse_rfc3339(batch.expires_at)
        ended_at = parse_rfc3339(batch.ended_at) if batch.ended_at else None
    except ValueError:
        raise BadShape("a time that is not RFC 3339") from None
    return Sighting(
        id=UpstreamId(batch.id),
        total=batch.request_counts.total,
        created_at=created_at,
        expires_at=expires_at,
        ended_at=ended_at,
        ended=batch.processing_status == "ended",
        canceling=batch.processing_status == "canceling",
        results_readable=batch.results_url is not None and batch.archived_at is None,
        archived=batch.archived_at is not None,
    )


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadShape(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadShape(f"not JSON: {type(error).__name__}") from None
