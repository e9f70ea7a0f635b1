"""The nonce, the custom_ids and the body of a batch."""

import json
import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from unhurried.domain.batch import (
    BODY_HEAD,
    BODY_TAIL,
    NONCE_CHARS,
    body_bytes,
    body_page,
    custom_id,
    member_bytes,
    new_nonce,
    split_custom_id,
)

ID = "01980000-0000-7000-8000-00000000000{}"


def test_a_nonce_is_unlike_any_other() -> None:
    nonces = {new_nonce() for _ in range(1_000)}
    assert len(nonces) == 1_000
    assert all(re.fullmatch(f"[a-z0-9]{{{NONCE_CHARS}}}", nonce) for nonce in nonces)


def test_a_custom_id_is_one_that_upstream_allows_and_can_be_taken_apart() -> None:
    nonce, request_id = new_nonce(), ID.format(1)
    text = custom_id(nonce, request_id)
    assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", text)
    assert split_custom_id(text) == (nonce, request_id)


@given(st.text(max_size=80))
def test_a_strangers_custom_id_is_taken_apart_without_harm(text: str) -> None:
    nonce, request_id = split_custom_id(text)
    assert len(nonce) <= NONCE_CHARS and len(request_id) <= max(len(text) - NONCE_CHARS - 1, 0)


@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=9),
    cuts=st.sets(st.integers(1, 8), max_size=8),
)
def test_the_length_of_a_body_is_known_before_it_is_made(sizes: list[int], cuts: set[int]) -> None:
    """However it is cut into pages, it is valid JSON, is what its members are, and has the length that was promised."""
    nonce = "abcdefghjkmn"
    members = [
        (ID.format(i), json.dumps({"x": "é" * size}, ensure_ascii=False).encode()) for i, size in enumerate(sizes)
    ]
    bounds = [0, *sorted(cut for cut in cuts if cut < len(members)), len(members)]
    body = BODY_HEAD
    for start, end in pairwise(bounds):
        body += body_page(nonce, members[start:end], first=start == 0)
    body += BODY_TAIL
    params_bytes = sum(len(params) for _, params in members)
    assert len(body) == body_bytes(len(members), params_bytes)
    assert json.loads(body) == {
        "requests": [{"custom_id": custom_id(nonce, id), "params": json.loads(params)} for id, params in members]
    }
    more = body_bytes(len(members) + 1, params_bytes + 7) - body_bytes(len(members), params_bytes)
    assert more == member_bytes(7)
