"""One GET over the daemon's socket, without an HTTP client: probes and completions run often and must be quick."""

import os
import socket
import time
from pathlib import Path
from typing import Final

PIECE_BYTES: Final = 65_536
ANSWER_BYTES_MAX: Final = 16_000_000


def get(path: Path, target: str, timeout_s: float) -> tuple[int, bytes]:
    """Status and body. Raises ``OSError`` (``TimeoutError`` is one) when nothing answers in that time, ``ValueError``
    when what answers is not HTTP."""
    until = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        connection.connect(os.fspath(path))
        connection.sendall(f"GET {target} HTTP/1.1\r\nhost: unhurried\r\nconnection: close\r\n\r\n".encode())
        answer = bytearray()
        while len(answer) < ANSWER_BYTES_MAX:
            if (left_s := until - time.monotonic()) <= 0:
                raise TimeoutError(f"no whole answer within {timeout_s:g} s")
            connection.settimeout(left_s)
            piece = connection.recv(PIECE_BYTES)
            if not piece:
                break
            answer += piece
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    protocol, _, rest = head.partition(b" ")
    if not protocol.startswith(b"HTTP/"):
        raise ValueError(f"what answers at {path} is not the daemon")
    return int(rest[:3]), body
