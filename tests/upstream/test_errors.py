"""Reading what error answers say."""

from __future__ import annotations

import pytest

from tests.upstream.server import DATE, DATE_MS
from unhurried.upstream.errors import error_answer, http_date, retry_after_s

LATER = "Sun, 22 Nov 2026 08:01:30 GMT"
PAST = "Sun, 22 Nov 2020 08:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "30"}, 30.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "3600"}, 3600.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": LATER, "date": DATE}, 90.0),
        ({"retry-after": PAST, "date": DATE}, 0.0),
        ({"retry-after": PAST}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (DATE, DATE_MS),
        ("Sun, 22 Nov 2026 08:00:00 -0000", DATE_MS),
        ("Sunday, 22-Nov-26 08:00:00 GMT", DATE_MS),
        ("", None),
        (None, None),
        ("Sun, 99 Nov 2026 08:00:00 GMT", None),
    ],
)
def test_a_date_is_read_or_it_is_none(text: str | None, moment: int | None) -> None:
    assert http_date(text) == moment


def test_the_error_object_is_kept_byte_for_byte() -> None:
    inner = b'{ "type":"invalid_request_error",  "message":"requests.3: \xc3\xa9", "details": null, "more": [1] }'
    answer = error_answer(400, {}, b'{"type":"error","error":' + inner + b',"request_id":"req_1"}')
    assert answer.body == inner
    assert (answer.error_type, answer.error_code, answer.message) == (
        "invalid_request_error",
        "",
        "requests.3: \u00e9",
    )
