"""A batch: its nonce, the custom_ids of its members, and the bytes of the body that creates it upstream."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NewType

from unhurried.clock import Ms
from unhurried.domain.states import BatchState

BatchId = NewType("BatchId", str)
UpstreamId = NewType("UpstreamId", str)

NONCE_CHARS: Final = 12
NONCE_ALPHABET: Final = "abcdefghjkmnpqrstvwxyz0123456789"
"""32 letters without i, l, o, u: a nonce is read aloud at night."""

BODY_HEAD: Final = b'{"requests":['
BODY_TAIL: Final = b"]}"
_MEMBER: Final = b'{"custom_id":"%s","params":'
_MEMBER_BYTES: Final = len(_MEMBER % b"") + NONCE_CHARS + 1 + 36 + 1  # nonce, '-', uuid, closing brace


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Our record of one Message Batch. It exists before upstream is called."""

    id: BatchId
    state: BatchState
    nonce: str
    queue: str
    model: str
    anthropic_version: str
    anthropic_beta: str
    requests: int
    body_bytes: int
    created_at: Ms
    formed_at: Ms | None = None
    submit_started_at: Ms | None = None
    upstream_id: UpstreamId | None = None
    upstream_created_at: Ms | None = None
    adopted: bool = False
    """Found by the settlement rather than named in the answer to our POST."""
    proved: bool = False
    """Upstream named it in the answer to our POST, or a result line has shown our nonce."""
    members_open: int = 0
    cut_short: int = 0
    """Bodies of its group that upstream called incomplete, in a row."""
    late: bool = False
    """A twin that turned up after the batch had been given up: what it brings may be waste."""
    found: bool = False
    """Sent after a copy was made that was restored, and found upstream: its members come to light with its results."""


def new_nonce() -> str:
    """60 random bits: enough that no two batches of one account ever meet."""
    return "".join(secrets.choice(NONCE_ALPHABET) for _ in range(NONCE_CHARS))


def custom_id(nonce: str, request_id: str) -> str:
    """``<nonce>-<request id>``: 49 characters of the 64 that upstream allows."""
    return f"{nonce}-{request_id}"


def split_custom_id(text: str) -> tuple[str, str]:
    """The nonce and the request id. A stranger's custom_id gives parts that belong to no batch of ours."""
    return text[:NONCE_CHARS], text[NONCE_CHARS + 1 :]


def body_bytes(requests: int, params_bytes: int) -> int:
    """The exact length of the body for ``requests`` members whose params have ``params_bytes`` together."""
    separators = max(requests - 1, 0)
    return len(BODY_HEAD) + len(BODY_TAIL) + requests * _MEMBER_BYTES + params_bytes + separators


def member_bytes(params_bytes: int) -> int:
    """What one member adds to the body, its separator counted."""
    return _MEMBER_BYTES + params_bytes + 1


def body_page(nonce: str, members: Iterable[tuple[str, bytes]], *, first: bool) -> bytes:
    """The bytes of some members, ``(request id, params)`` each, as they stand in the body.

    ``first``: they begin it; other pages begin with a comma.
    """
    head = _MEMBER % (nonce.encode() + b"-%s")
    parts = [b"%s%s}" % (head % id.encode(), params) for id, params in members]
    page = b",".join(parts)
    return page if first else b"," + page
