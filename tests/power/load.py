"""Many callers at once, and what they were told: each accepted request by its id, with the text that it carries."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

CALLERS: Final = 48
BULK_LINES: Final = 100


@dataclass
class Load:
    """Callers of a socket until it breaks. ``cut`` is called once, as soon as ``enough`` requests are acknowledged."""

    socket: Path
    enough: int
    cut: Callable[[], None]
    text: str = "singly"
    acked: dict[str, str] = field(default_factory=dict)
    """Request id to the text of its params."""
    singles: int = 0
    bulks: int = 0
    _made: int = 0
    _over: bool = False

    async def run(self) -> None:
        callers = [self._singly() for _ in range(CALLERS)]
        await asyncio.wait_for(asyncio.gather(*callers, self._in_bulk()), 60)
        assert self._over, f"the daemon has gone by itself after {len(self.acked)} requests"

    def told(self, request_id: str, text: str) -> None:
        self.acked[request_id] = text
        if len(self.acked) >= self.enough and not self._over:
            self._over = True
            self.cut()

    def next_text(self) -> str:
        self._made += 1
        return f"{self.text} {self._made} " + "x" * (self._made % 7 * 100)

    async def _singly(self) -> None:
        """One request after the other on one connection."""
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_unix_connection(str(self.socket))
            try:
                while True:
                    text = self.next_text()
                    answer = await _post(reader, writer, b"application/json", envelope(text))
                    self.singles += 1
                    self.told(json.loads(answer)["id"], text)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

    async def _in_bulk(self) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        try:
            while True:
                texts = [self.next_text() for _ in range(BULK_LINES)]
                answer = await _post(reader, writer, b"application/x-ndjson", b"\n".join(map(envelope, texts)))
                for text, line in zip(texts, answer.splitlines(), strict=False):
                    self.bulks += 1
                    self.told(json.loads(line)["id"], text)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def envelope(text: str) -> bytes:
    return json.dumps({"params": params(text)}).encode()


def params(text: str) -> dict[str, Any]:
    return {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": text}]}


async def _post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: bytes, body: bytes) -> bytes:
    """The body of the answer, which is to be a yes. Raises what a broken connection raises."""
    head = b"POST /queue/requests HTTP/1.1\r\nhost: u\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % (kind, len(body)) + body)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.split(b" ", 2)[1] in (b"200", b"201", b"202", b"207"), head
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
    if b"content-length" in fields:
        return await reader.readexactly(int(fields[b"content-length"]))
    whole = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        whole += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return whole
