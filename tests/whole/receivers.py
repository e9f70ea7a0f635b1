"""Receivers of webhooks: real servers in threads, which verify each event as an application would."""

import json
import os
import socketserver
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from standardwebhooks import Webhook, WebhookVerificationError

SECRET: Final = "whsec_" + "QUJD" * 11
Answer = Callable[[BaseHTTPRequestHandler], None]


def ok(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(204)
    handler.end_headers()


@dataclass(frozen=True)
class Got:
    """One attempt that reached us. ``event`` is what the signature vouches for."""

    id: str
    attempt: int
    event: dict[str, Any]
    headers: Mapping[str, str]


@dataclass
class Receiver:
    """``answer`` answers each attempt. ``taken`` are the ids of those that were answered with success."""

    secret: str | None = SECRET
    answer: Answer = ok
    got: list[Got] = field(default_factory=list)
    forged: list[str] = field(default_factory=list)
    url: str = ""
    held: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    gate: threading.Event = field(default_factory=threading.Event)

    def hold(self, handler: BaseHTTPRequestHandler) -> None:
        """An answer that waits: for ``gate``, or for the end of the connection."""
        self.held.release()
        self.gate.wait(60)
        ok(handler)

    def ids(self) -> Counter[str]:
        return Counter(got.id for got in list(self.got))

    def requests(self) -> set[str]:
        return {got.event["data"]["request_id"] for got in list(self.got) if "request_id" in got.event["data"]}

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["content-length"]))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        try:
            if self.secret is not None:
                Webhook(self.secret).verify(body, headers)
        except WebhookVerificationError as error:
            self.forged.append(str(error))
            handler.send_response(401)
            handler.end_headers()
            return
        self.got.append(Got(headers["webhook-id"], int(headers["unhurried-attempt"]), json.loads(body), headers))
        self.answer(handler)


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with suppress(ConnectionError):  # the daemon was killed between two requests
                super().handle()

        def do_POST(self) -> None:
            try:
                receiver.take(self)
            except OSError:
                self.close_connection = True  # the daemon was killed, or has had enough

        def address_string(self) -> str:
            return "caller"  # on a Unix socket there is none

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def listening(receiver: Receiver, *, port: int = 0, path: Path | None = None) -> Iterator[Receiver]:
    """On a port of this machine, or on a Unix socket."""
    server: socketserver.BaseServer
    if path is not None:
        path.unlink(missing_ok=True)
        server = _UnixServer(os.fspath(path), _handler(receiver))
        receiver.url = f"http+unix://{os.fspath(path).replace('/', '%2F')}/hook"
    else:
        server = ThreadingHTTPServer(("127.0.0.1", port), _handler(receiver))
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.gate.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
