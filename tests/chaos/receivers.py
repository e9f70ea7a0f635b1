"""Receivers of webhooks that keep what they get, and treat the daemon badly for as long as the storm lasts."""

import random
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler
from typing import Final

import msgspec
from standardwebhooks import Webhook, WebhookVerificationError

from tests.chaos.evidence import Notes, Receipt
from tests.whole.receivers import SECRET, Receiver, ok

HANGS_S: Final = 1.6
"""Longer than the daemon waits."""


class _Data(msgspec.Struct):
    delivery_id: str
    request_id: str
    custom_id: str | None
    state: str
    result: msgspec.Raw


class _Event(msgspec.Struct):
    type: str
    data: _Data


class BadReceiver(Receiver):
    """Says 2xx only of what it has kept. What it does to whom is drawn from ``seed``, in the order of arrival."""

    def __init__(self, notes: Notes, via: str, seed: int) -> None:
        super().__init__(answer=self._answer)
        self._notes = notes
        self._via = via
        self._chance = random.Random(f"receiver {via} {seed}")
        self._lock = threading.Lock()
        self.healthy = threading.Event()
        self.done: Counter[str] = Counter()

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers["content-length"])
        body = handler.rfile.read(length)
        if len(body) < length:
            handler.close_connection = True
            return  # the daemon was killed on its way
        headers = {name.lower(): value for name, value in handler.headers.items()}
        try:
            Webhook(SECRET).verify(body, headers)
        except WebhookVerificationError as error:
            self._notes.complain(f"a webhook by {self._via} cannot be verified: {error}")
            return
        with self._lock:
            does = "ok" if self.healthy.is_set() else self._does()
            self.done[does] += 1
        if does in ("drops_unread", "500", "410", "503"):
            _say(handler, does)
            return
        data = msgspec.json.decode(body, type=_Event).data
        if data.delivery_id != headers["webhook-id"]:
            self._notes.complain(f"a webhook by {self._via} has two ids: {headers['webhook-id']}, {data.delivery_id}")
        self._notes.received(
            Receipt(
                request_id=data.request_id,
                delivery_id=data.delivery_id,
                custom_id=data.custom_id,
                state=data.state,
                result=bytes(data.result),
                via=self._via,
            )
        )
        if does == "hangs":
            self.healthy.wait(HANGS_S)
        if does in ("drops_kept", "hangs"):
            _say(handler, "drops_unread")
            return
        ok(handler)
        if does == "drops_after":
            handler.close_connection = True

    def _does(self) -> str:
        kinds = ("ok", "500", "503", "hangs", "drops_unread", "drops_kept", "drops_after", "410")
        return self._chance.choices(kinds, (60, 10, 1, 3, 8, 8, 9, 0.5))[0]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        raise AssertionError("take answers by itself")


def _say(handler: BaseHTTPRequestHandler, does: str) -> None:
    if does == "drops_unread":
        handler.close_connection = True
        handler.connection.close()
        return
    handler.send_response(int(does))
    if does == "503":
        handler.send_header("retry-after", "1")
    handler.send_header("content-length", "0")
    handler.end_headers()
