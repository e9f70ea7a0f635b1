"""What each answer to a create means. A create has three outcomes: yes, a definite no, and "it may have happened".

Upstream knows no idempotency key for it and a batch carries no label, so whatever is not a definite answer counts as
unknown and is settled by looking, never by sending again.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, assert_never

from unhurried.clock import Ms, after
from unhurried.domain.batch import UpstreamId


@dataclass(frozen=True, kw_only=True)
class Created:
    """2xx with an id. ``created_at`` is on upstream's clock."""

    upstream_id: UpstreamId
    created_at: Ms


@dataclass(frozen=True, kw_only=True)
class ErrorAnswer:
    """An HTTP answer other than 2xx. ``retry_after_s`` as upstream sent it; the texts are empty where it sent none."""

    status: int
    error_type: str = ""
    error_code: str = ""
    message: str = ""
    retry_after_s: float | None = None
    body: bytes = b""
    """The ``error`` object of the answer as JSON, for the request that caused it."""


@dataclass(frozen=True, kw_only=True)
class NoAnswer:
    """``sent`` is False only if it is certain that no byte of the request left this machine."""

    sent: bool
    detail: str


Answer = Created | ErrorAnswer | NoAnswer


class No(StrEnum):
    """The kinds of a definite no, by what follows from them."""

    TOO_LARGE = "too_large"
    ACCOUNT = "account"
    UNREACHABLE = "unreachable"
    CUT_SHORT = "cut_short"
    CULPRIT = "culprit"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, kw_only=True)
class Refused:
    kind: No
    detail: str
    retry_after_s: float | None = None
    culprit: int | None = None
    """The place in the batch, from 0, of the request that upstream named."""
    until_next_month: bool = False
    error: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Unknown:
    detail: str


Outcome = Created | Refused | Unknown

_NAMED: Final = re.compile(r"\brequests[.\[](\d+)")
_CUT_SHORT: Final = re.compile(r"unexpected end|not valid json|unterminated|premature|eof while parsing", re.IGNORECASE)
_ACCOUNT_MESSAGE: Final = re.compile(r"usage limits|credit balance|billing", re.IGNORECASE)
_ACCOUNT_CODES: Final = frozenset(
    {"organization_on_hold", "cmek_key_disabled", "claude_code_key_creator_not_member", "enforced_spend_limit_reached",
     "contract_spend_limit_reached"}
)  # fmt: skip
_UNTIL_NEXT_MONTH: Final = frozenset({"enforced_spend_limit_reached", "contract_spend_limit_reached"})
_ACCOUNT_TYPES: Final = frozenset({"authentication_error", "billing_error", "permission_error"})


def outcome_of(answer: Answer) -> Outcome:
    """The table in docs/architecture.md, "Submission: paid once"."""
    match answer:
        case Created():
            return answer
        case NoAnswer(sent=False):
            return Refused(kind=No.UNREACHABLE, detail=answer.detail)
        case NoAnswer():
            return Unknown(detail=answer.detail)
        case ErrorAnswer():
            return _outcome_of_error(answer)
        case _:
            assert_never(answer)


def _outcome_of_error(answer: ErrorAnswer) -> Outcome:
    detail = " ".join(filter(None, [str(answer.status), answer.error_type, answer.error_code, answer.message[:300]]))
    if answer.status == 413:
        return Refused(kind=No.TOO_LARGE, detail=detail)
    if answer.status in (401, 402, 403, 404, 429):
        return Refused(
            kind=No.ACCOUNT,
            detail=detail,
            retry_after_s=answer.retry_after_s,
            until_next_month=answer.retry_after_s is None and answer.error_code in _UNTIL_NEXT_MONTH,
        )
    if answer.status in (400, 414, 422, 431):
        return _outcome_of_bad_request(answer, detail)
    return Unknown(detail=detail)


def _outcome_of_bad_request(answer: ErrorAnswer, detail: str) -> Refused:
    if (named := _NAMED.search(answer.message)) is not None:
        return Refused(kind=No.CULPRIT, detail=detail, culprit=int(named[1]), error=answer.body)
    if (
        answer.error_code in _ACCOUNT_CODES
        or answer.error_type in _ACCOUNT_TYPES
        or _ACCOUNT_MESSAGE.search(answer.message)
    ):
        return Refused(kind=No.ACCOUNT, detail=detail, retry_after_s=answer.retry_after_s)
    if _CUT_SHORT.search(answer.message) or answer.error_code == "request_body_timeout":
        return Refused(kind=No.CUT_SHORT, detail=detail)
    return Refused(kind=No.UNEXPLAINED, detail=detail, error=answer.body)


RETRY_AFTER_MIN_S: Final = 1.0
"""A ``retry-after`` of 0, or a date that has passed, must not become a loop of uploads."""
RETRY_AFTER_MAX_S: Final = 32 * 86_400.0
UNEXPLAINED_MAX: Final = 6


@dataclass(frozen=True, kw_only=True)
class PausePolicy:
    """How long the account rests after a no. Trying again after a definite no costs nothing but the upload."""

    account_s: float
    unreachable_s: float
    longest_s: float


def pause_until(refused: Refused, refusals_before: int, policy: PausePolicy, now: Ms) -> Ms | None:
    """Until when nothing is submitted: as upstream says, else doubling with each refusal. ``None``: no pause."""
    if refused.retry_after_s is not None and refused.kind is No.ACCOUNT:
        return after(now, min(max(refused.retry_after_s, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S))
    if refused.until_next_month:
        return _next_month(now)
    if refused.kind is No.ACCOUNT:
        first_s = policy.account_s
    elif refused.kind in (No.UNREACHABLE, No.CUT_SHORT):
        first_s = policy.unreachable_s
    elif refused.kind is No.UNEXPLAINED and refusals_before >= UNEXPLAINED_MAX:
        # Half of a refused group has always got through by now: it is not a request that upstream minds. Slow down
        # before blaming them one by one.
        first_s = policy.unreachable_s
    else:
        return None
    return after(now, min(first_s * 2.0 ** min(refusals_before, 20), policy.longest_s))


def _next_month(now: Ms) -> Ms:
    """00:00 UTC on the first of the next month: when upstream's monthly limits begin anew."""
    today = datetime.fromtimestamp(now / 1000, UTC)
    year, month = divmod(today.year * 12 + today.month, 12)
    return Ms(int(datetime(year, month + 1, 1, tzinfo=UTC).timestamp() * 1000))


def may_submit(requests: int, waiting_upstream: int, queue_limit: int) -> bool:
    """Whether a batch of this size fits into what upstream lets wait. One that is larger than the limit itself is
    tried when nothing else waits: upstream knows its limit better than a setting does."""
    return waiting_upstream == 0 or waiting_upstream + requests <= queue_limit
