"""What each answer to a create means, and how long the account rests after a no."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhurried.clock import Ms, after
from unhurried.domain.batch import UpstreamId
from unhurried.domain.submitting import (
    Created,
    ErrorAnswer,
    No,
    NoAnswer,
    PausePolicy,
    Refused,
    Unknown,
    may_submit,
    outcome_of,
    pause_until,
)

NOW = Ms(1_795_000_000_000)
POLICY = PausePolicy(account_s=60.0, unreachable_s=1.0, longest_s=900.0)


@dataclass
class Row:
    name: str
    status: int
    kind: No | None
    """None: unknown."""
    message: str = ""
    code: str = ""
    type: str = ""
    culprit: int | None = None


ROWS = [
    Row("413", 413, No.TOO_LARGE, type="request_too_large"),
    Row("413 as HTML", 413, No.TOO_LARGE),
    Row("401", 401, No.ACCOUNT, type="authentication_error"),
    Row("402", 402, No.ACCOUNT, type="billing_error"),
    Row("403", 403, No.ACCOUNT, type="permission_error"),
    Row("404", 404, No.ACCOUNT),
    Row("429", 429, No.ACCOUNT, type="rate_limit_error"),
    Row("400 spend limit", 400, No.ACCOUNT, code="enforced_spend_limit_reached"),
    Row("400 hold", 400, No.ACCOUNT, code="organization_on_hold"),
    Row("400 credit", 400, No.ACCOUNT, "Your credit balance is too low"),
    Row("400 usage", 400, No.ACCOUNT, "You have reached your specified API usage limits"),
    Row("400 of an account type", 400, No.ACCOUNT, type="permission_error"),
    Row("400 cut short", 400, No.CUT_SHORT, "The request body is not valid JSON: unexpected end of data"),
    Row("400 too slow", 400, No.CUT_SHORT, code="request_body_timeout"),
    Row("400 names one", 400, No.CULPRIT, "requests.17.params.max_tokens: Field required", culprit=17),
    Row("400 names one in brackets", 400, No.CULPRIT, "requests[3].params: bad", culprit=3),
    Row("400 names one and billing", 400, No.CULPRIT, "requests.0.params: billing", culprit=0),
    Row("400 unexplained", 400, No.UNEXPLAINED, "something is wrong", type="invalid_request_error"),
    Row("400 without a word", 400, No.UNEXPLAINED),
    Row("422", 422, No.UNEXPLAINED),
    *(Row(str(status), status, None) for status in (302, 405, 408, 409, 410, 499, 500, 502, 503, 504, 520, 529)),
    Row("500 that names one", 500, None, "requests.3: oh no"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_answer_is_read_as_the_table_says(row: Row) -> None:
    body = b'{"type":"x"}'
    answer = ErrorAnswer(
        status=row.status, error_type=row.type, error_code=row.code, message=row.message, body=body, retry_after_s=7.0
    )
    outcome = outcome_of(answer)
    if row.kind is None:
        assert isinstance(outcome, Unknown)
        return
    assert isinstance(outcome, Refused)
    assert (outcome.kind, outcome.culprit) == (row.kind, row.culprit)
    assert str(row.status) in outcome.detail
    assert outcome.retry_after_s == (7.0 if row.kind is No.ACCOUNT else None)
    assert outcome.error == (body if row.kind in (No.CULPRIT, No.UNEXPLAINED) else b"")


def test_no_answer_is_a_no_only_if_no_byte_was_sent() -> None:
    refused = outcome_of(NoAnswer(sent=False, detail="connection refused"))
    assert isinstance(refused, Refused) and refused.kind is No.UNREACHABLE
    assert outcome_of(NoAnswer(sent=True, detail="timeout")) == Unknown(detail="timeout")


def test_an_id_is_a_yes() -> None:
    created = Created(upstream_id=UpstreamId("msgbatch_1"), created_at=NOW)
    assert outcome_of(created) is created


@given(
    st.integers(100, 599).filter(lambda status: status not in (400, 401, 402, 403, 404, 413, 414, 422, 429, 431)),
    st.text(max_size=40),
)
def test_whatever_is_not_in_the_table_is_unknown(status: int, message: str) -> None:
    """Never sent again on a guess."""
    assert isinstance(outcome_of(ErrorAnswer(status=status, message=message)), Unknown)


def refused(kind: No, retry_after_s: float | None = None, *, until_next_month: bool = False) -> Refused:
    return Refused(kind=kind, detail="", retry_after_s=retry_after_s, until_next_month=until_next_month)


@pytest.mark.parametrize(
    ("no", "before", "pause_s"),
    [
        (refused(No.ACCOUNT, 17.0), 5, 17.0),
        (refused(No.ACCOUNT, 5_000.0), 0, 5_000.0),
        (refused(No.ACCOUNT), 0, 60.0),
        (refused(No.ACCOUNT), 2, 240.0),
        (refused(No.ACCOUNT), 4, 900.0),
        (refused(No.ACCOUNT), 10_000, 900.0),
        (refused(No.UNREACHABLE), 0, 1.0),
        (refused(No.UNREACHABLE, 17.0), 3, 8.0),
        (refused(No.CUT_SHORT), 1, 2.0),
        (refused(No.TOO_LARGE), 3, None),
        (refused(No.CULPRIT, 17.0), 3, None),
        (refused(No.UNEXPLAINED), 0, None),
    ],
)
def test_the_account_rests(no: Refused, before: int, pause_s: float | None) -> None:
    until = pause_until(no, before, POLICY, NOW)
    assert until == (None if pause_s is None else after(NOW, pause_s))


@pytest.mark.parametrize(
    ("today", "then"),
    [("2026-11-22T10:00", "2026-12-01"), ("2026-12-31T23:59", "2027-01-01"), ("2028-01-31T00:00", "2028-02-01")],
)
def test_a_monthly_limit_rests_until_the_first(today: str, then: str) -> None:
    def moment(text: str) -> Ms:
        return Ms(int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000))

    limit = outcome_of(ErrorAnswer(status=429, error_code="enforced_spend_limit_reached"))
    assert isinstance(limit, Refused)
    assert pause_until(limit, 0, POLICY, moment(today)) == moment(then)


def test_a_batch_larger_than_the_limit_is_tried_alone() -> None:
    assert may_submit(300, 0, 200)
    assert not may_submit(300, 1, 200)
    assert may_submit(100, 100, 200)
    assert not may_submit(101, 100, 200)
