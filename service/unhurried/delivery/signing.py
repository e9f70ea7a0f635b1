"""The signature of a webhook: Standard Webhooks 1.0, with every secret of its destination.

Secrets are read anew for each attempt, so that replacing one needs neither a restart nor a cache that might be stale.
No text made here contains any part of one.
"""

import base64
import binascii
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
from standardwebhooks import Webhook

from unhurried.clock import Ms
from unhurried.delivery.failures import CannotSend
from unhurried.domain.delivering import SecretRef

log = structlog.get_logger()

PREFIX: Final = "whsec_"
KEY_BYTES: Final = range(24, 65)
FILE_BYTES_MAX: Final = 1_000
_BESIDE_THE_DATABASE: Final = ("", "-wal", "-shm", "-journal", ".lock")


class Signer:
    """Signs with what the references lead to. ``environ`` is where ``env:`` looks; ``database`` is never opened."""

    def __init__(self, environ: Mapping[str, str], database: Path) -> None:
        self._environ = environ
        self._database = database
        self._unreadable: set[SecretRef] = set()

    def headers(self, delivery_id: str, now: Ms, body: bytes, refs: Sequence[SecretRef]) -> dict[str, str]:
        """``webhook-id``, ``webhook-timestamp`` and, where there are secrets, one signature for each in
        ``webhook-signature``: a receiver needs any one of them.

        A secret that cannot be read is left out, with a warning, as long as another can: one that is being replaced is
        gone from one side first. Raises ``CannotSend`` when none can be read. ``body`` is UTF-8.
        """
        headers = {"webhook-id": delivery_id, "webhook-timestamp": str(now // 1000)}
        if refs:
            moment = datetime.fromtimestamp(now // 1000, UTC)
            text = body.decode()
            keys = self._keys(refs)
            headers["webhook-signature"] = " ".join(Webhook(key).sign(delivery_id, moment, text) for key in keys)
        return headers

    def _keys(self, refs: Sequence[SecretRef]) -> list[bytes]:
        keys, problems = [], {}
        for ref in refs:
            try:
                keys.append(_key(ref, self._text(ref)))
                self._unreadable.discard(ref)
            except CannotSend as problem:
                problems[ref] = problem.detail
        if not keys:
            raise CannotSend("; ".join(problems.values()))
        for ref in problems.keys() - self._unreadable:
            log.warning("webhook.secret_unreadable", secret=str(ref), why=problems[ref])
        self._unreadable |= problems.keys()
        return keys

    def _text(self, ref: SecretRef) -> str:
        if ref.kind == "env":
            if not (text := self._environ.get(ref.name, "")):
                raise CannotSend(f"the secret {ref} is not set in the daemon's environment")
            return text
        try:
            return self._file(ref).decode("ascii", "replace")
        except OSError as error:
            raise CannotSend(f"the secret {ref} cannot be read: {error.strerror}") from None

    def _file(self, ref: SecretRef) -> bytes:
        # Looked at before it is opened: closing any descriptor of the database would drop the locks that SQLite holds
        # on it in this process, and with them commits (https://sqlite.org/howtocorrupt.html, section 2.2).
        found = Path(ref.name).stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > FILE_BYTES_MAX:
            raise CannotSend(f"the secret {ref} is no file of at most {FILE_BYTES_MAX:,} bytes")
        if any(os.path.samestat(found, ours) for ours in self._our_files()):
            raise CannotSend(f"the secret {ref} is a file of the daemon's own")
        with open(ref.name, "rb", opener=_without_waiting) as file:  # Path.open has no opener
            return file.read(FILE_BYTES_MAX)

    def _our_files(self) -> Iterator[os.stat_result]:
        for ending in _BESIDE_THE_DATABASE:
            path = self._database.with_name(self._database.name + ending)
            if path.exists():
                yield path.stat()


def _key(ref: SecretRef, text: str) -> bytes:
    encoded = text.strip()
    if not encoded.startswith(PREFIX):
        raise CannotSend(f"the secret {ref} does not begin with {PREFIX}")
    encoded = encoded.removeprefix(PREFIX).rstrip("=")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):  # ValueError: a character that is not ASCII
        raise CannotSend(f"the secret {ref} is not base64 after {PREFIX}") from None
    if len(key) not in KEY_BYTES:
        raise CannotSend(
            f"the secret {ref} has {len(key)} bytes once decoded; Standard Webhooks wants {KEY_BYTES[0]} to"
            f" {KEY_BYTES[-1]}"
        )
    return key


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe put there since would block for ever
