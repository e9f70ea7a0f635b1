"""The page of webhooks says what the code does, and its Python verifies what the daemon signs."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from unhurried.clock import Ms, SystemClock, after, parse_rfc3339
from unhurried.delivery.signing import KEY_BYTES, Signer
from unhurried.domain import delivering, destination
from unhurried.domain.delivering import SCHEDULE_S, Parcel, SecretRef, event, outcome_of
from unhurried.domain.states import RequestState
from unhurried.settings import DeliverySettings, variables

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/webhooks.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SECRET, OLD = "whsec_" + "QUJD" * 11, "whsec_" + "T0xE" * 11
SHOWN = json.loads(re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0])
PARCEL = Parcel(
    delivery_id=SHOWN["data"]["delivery_id"],
    attempt=1,
    request_id=SHOWN["data"]["request_id"],
    custom_id="row-7",
    queue="labels",
    state=RequestState.SUCCEEDED,
    stored_at=parse_rfc3339(SHOWN["timestamp"]),
    metadata=b'{"row": 7}',
    result=b'{"type": "succeeded", "message": {"role": "assistant", "content": []}}',
)
UNITS = {"s": 1, "min": 60, "h": 3_600}


def signed(now: Ms, body: bytes) -> dict[str, str]:
    """The headers that the daemon sends while a secret is being replaced."""
    signer = Signer({"NEW": SECRET, "OLD": OLD}, Path("/nowhere/u.db"))
    return signer.headers(PARCEL.delivery_id, now, body, [SecretRef("env", "NEW"), SecretRef("env", "OLD")])


Read = Callable[[bytes, Mapping[str, str], str], Any]


@pytest.fixture(params=range(len(SNIPPETS)), ids=["standardwebhooks", "hmac"])
def read(request: pytest.FixtureRequest) -> Read:
    """``read`` of a snippet."""
    names: dict[str, Any] = {}
    exec(compile(SNIPPETS[request.param], "docs/webhooks.md", "exec"), names)
    made: Read = names["read"]
    return made


@pytest.mark.parametrize("secret", [SECRET, OLD], ids=["new", "old"])
def test_a_snippet_reads_what_was_sent_with_either_secret(read: Read, secret: str) -> None:
    body = event(PARCEL, 10**6)
    assert read(body, signed(SystemClock().now(), body), secret) == SHOWN


def test_a_snippet_refuses_what_is_not_ours(read: Read) -> None:
    body, now = event(PARCEL, 10**6), SystemClock().now()
    headers = signed(now, body)
    refused = (ValueError, WebhookVerificationError)
    with pytest.raises(refused):
        read(body.replace(b"row-7", b"row-8"), headers, SECRET)
    with pytest.raises(refused):
        read(body, {**headers, "webhook-id": "another.1"}, SECRET)
    with pytest.raises(refused):
        read(body, headers, "whsec_" + "WFla" * 11)
    with pytest.raises(refused):
        read(body, signed(after(now, -301), body), SECRET)


def test_the_event_shown_is_the_one_that_is_sent() -> None:
    assert json.loads(event(PARCEL, 10**6)) == SHOWN
    assert list(json.loads(event(PARCEL, 10**6))["data"]) == list(SHOWN["data"])
    assert json.loads(event(PARCEL, 0))["data"]["result"] is None


def test_the_signature_is_that_of_the_standard() -> None:
    body = event(PARCEL, 10**6)
    headers = signed(PARCEL.stored_at, body)
    moment = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    assert headers["webhook-signature"].split(" ") == [
        Webhook(secret).sign(PARCEL.delivery_id, moment, body.decode()) for secret in (SECRET, OLD)
    ]


def test_the_schedule_shown_is_the_one_that_is_kept() -> None:
    rows = re.findall(r"^\| (\d+) \| (at once|\d+ \w+) \|$", PAGE, re.MULTILINE)
    assert [int(attempt) for attempt, _ in rows] == list(range(1, len(SCHEDULE_S) + 2))
    pauses = [text.split() for _, text in rows[1:]]
    assert tuple(int(number) * UNITS[unit] for number, unit in pauses) == SCHEDULE_S


def test_every_outcome_has_its_type() -> None:
    told = set(re.findall(r"`request\.(\w+)`", PAGE))
    assert told == {"succeeded", "errored", "expired", "canceled"}
    assert f"`{delivering.TEST_TYPE}`" in PAGE


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_the_answers_that_ask_for_rest_are_those_shown(status: int) -> None:
    outcome = outcome_of(status, "30", Ms(0))
    assert isinstance(outcome, delivering.TryAgain) and outcome.throttled
    [row] = re.findall(r"^\| (.*) with `Retry-After` \|", PAGE, re.MULTILINE)
    assert str(status) in row.split(", ")


def test_numbers_and_settings_are_those_of_the_code() -> None:
    settings = DeliverySettings.model_validate({})
    for text in (
        f"{destination.URL_CHARS_MAX:,} characters",
        f"| secrets of a destination | {destination.SECRETS_MAX} |",
        f"A secret is {KEY_BYTES[0]} to {KEY_BYTES[-1]} bytes",
        f"`UNHURRIED_DELIVERY__TIMEOUT_S` ({settings.timeout_s:g} s)",
        f"`UNHURRIED_DELIVERY__CONNECT_TIMEOUT_S` ({settings.connect_timeout_s:g} s)",
        f"(`UNHURRIED_DELIVERY__CONCURRENCY`, {settings.concurrency})",
        f"left alone for {delivering.OPEN_S:g} s",
        f"up to {delivering.OPEN_MAX_S / 60:g} minutes",
    ):
        assert text in PAGE.replace("\n", " "), text
    assert delivering.FAILURES_TO_OPEN == 5 and "After five failures in a row" in PAGE
    assert settings.disable_after_s == 5 * 86_400 and "throughout for five days" in PAGE
    assert set(re.findall(r"UNHURRIED_[A-Z_]*[A-Z]", PAGE)) <= {name for name, _, _ in variables()} | {
        "UNHURRIED_SOCKET"
    }
