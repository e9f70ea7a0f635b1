"""The log: one event a line, JSON to a pipe, colours on a terminal. Prompts and keys never get into it.

``log = structlog.get_logger()`` and ``log.info("room.what_happened", key=value)`` is all that a room needs. The
loggers of uvicorn, httpx2 and anthropic speak through the same line format, from warning on.
"""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Literal, TextIO, cast

import structlog
from structlog.types import Processor

Form = Literal["json", "console"]
Level = Literal["debug", "info", "warning", "error"]

LOUD_LIBRARIES: Final = ("anthropic", "asyncio", "aiosqlite", "httpcore2", "httpx2", "uvicorn", "uvicorn.access")


class _Dropping:
    """A stream that drops what cannot be written: a full disk, or a pipe that nobody reads any more, must end the log
    and not the daemon."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._out.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._out.flush()


def setup(form: Form | None = None, level: Level = "info", stream: TextIO | None = None) -> None:
    """Send every log line to ``stream`` (default: stderr). Without a ``form``: console on a terminal, else JSON.

    Calling it again replaces what was set.
    """
    out = stream if stream is not None else sys.stderr
    on_terminal = out.isatty()
    chosen = form or ("console" if on_terminal else "json")
    least = logging.getLevelNamesMapping()[level.upper()]
    colors = on_terminal and not os.environ.get("NO_COLOR")
    shared: Sequence[Processor] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    )
    structlog.configure(
        processors=[*shared, *_rendered(chosen, colors=colors)],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Dropping(out))),
        cache_logger_on_first_use=stream is None,
    )
    _route_stdlib(chosen, shared, out, colors=colors)


def _rendered(form: Form, *, colors: bool) -> list[Processor]:
    """The end of the chain. Exceptions keep their frames, never the variables in them: those can hold prompts."""
    if form == "console":
        renderer = structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=32
        )
        return [renderer]
    frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    exceptions = structlog.processors.ExceptionRenderer(frames)
    return [exceptions, structlog.processors.JSONRenderer(default=_shown)]


def _route_stdlib(form: Form, shared: Sequence[Processor], out: TextIO, *, colors: bool) -> None:
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendered(form, colors=colors),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in LOUD_LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.WARNING)


def _shown(value: Any) -> str:
    """What JSON cannot say, as text: a path, an enum. Bytes show their size only, they may be a body."""
    return f"<{len(value)} bytes>" if isinstance(value, bytes | bytearray | memoryview) else str(value)
