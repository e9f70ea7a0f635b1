"""What went wrong upstream, as values that name no part of the SDK, and how an error answer is read."""

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from unhurried.clock import Ms, SystemClock, seconds_between
from unhurried.domain.submitting import ErrorAnswer

TEXT_CHARS_MAX: Final = 300
READ_AGAIN_MAX_S: Final = 3_600.0
"""The longest that upstream may ask a reader to wait: results that nobody reads in time vanish."""


class UpstreamTrouble(Exception):
    """A call that brought nothing. The loops try again later; nothing was changed by it.

    ``detail`` is safe to log and to show. ``status``: of the answer, ``None`` when there was none, or its body was the
    trouble. ``reachable``: there was a connection at least.
    """

    def __init__(
        self, detail: str, *, status: int | None = None, retry_after_s: float | None = None, reachable: bool
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.retry_after_s = retry_after_s
        self.reachable = reachable


class ResultsNotFound(UpstreamTrouble):
    """404 or 410 on results: not there yet, or no longer."""


class _Details(msgspec.Struct):
    error_code: str | None = None


class _Error(msgspec.Struct):
    type: str = ""
    message: str = ""
    details: _Details | None = None


class _Body(msgspec.Struct):
    error: msgspec.Raw


_bodies: Final = msgspec.json.Decoder(_Body)
_errors: Final = msgspec.json.Decoder(_Error)


def error_answer(status: int, headers: Mapping[str, str], body: bytes) -> ErrorAnswer:
    """Read an answer other than 2xx. A body that is not upstream's JSON (a CDN's HTML) gives empty texts."""
    retry = retry_after_s(headers)
    try:
        raw = bytes(_bodies.decode(body).error)
        error = _errors.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ErrorAnswer(status=status, retry_after_s=retry)
    code = error.details.error_code if error.details else None
    return ErrorAnswer(
        status=status,
        error_type=error.type,
        error_code=code or "",
        message=error.message,
        retry_after_s=retry,
        body=raw,
    )


def trouble_of(answer: ErrorAnswer, call: str, request_id: str | None) -> UpstreamTrouble:
    """The exception for an error answer to anything but a create. ``call``: what was asked, as ``GET /v1/…``."""
    what = " ".join(filter(None, [answer.error_type, answer.error_code, answer.message[:TEXT_CHARS_MAX]]))
    detail = f"{call}: {answer.status} {what}".rstrip() + (f" ({request_id})" if request_id else "")
    retry = None if answer.retry_after_s is None else min(answer.retry_after_s, READ_AGAIN_MAX_S)
    return UpstreamTrouble(detail, status=answer.status, retry_after_s=retry, reachable=True)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from ``retry-after-ms`` or ``retry-after`` (seconds or a date). ``None``: not said."""
    for name, per_second in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / per_second
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < float("inf"):  # also no "nan"
            return seconds
    until = http_date(headers.get("retry-after"))
    if until is None:
        return None
    # Both moments by upstream's clock where it tells the time, so that ours may be wrong.
    now = http_date(headers.get("date")) or SystemClock().now()
    return max(seconds_between(now, until), 0.0)


def http_date(text: str | None) -> Ms | None:
    """The moment in a ``Date`` header; ``None`` for none, or one that cannot be read."""
    if text is None:
        return None
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:  # "-0000": UTC without saying where
            moment = moment.replace(tzinfo=UTC)
        return Ms(round(moment.timestamp() * 1000))
    except (ValueError, OverflowError):
        return None
