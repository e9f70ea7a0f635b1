"""The log: one event a line, readable by machines on a pipe, and never with what could be a prompt or a key."""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
import structlog

from unhurried.observability.log import setup


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = root
    logging.getLogger().setLevel(level)


def test_on_a_pipe_each_event_is_one_json_line_with_a_utc_time() -> None:
    out = io.StringIO()
    setup(stream=out)
    structlog.get_logger().info("batch.submitted", batch="b1", requests=3)
    line = json.loads(out.getvalue())
    assert (line["event"], line["level"], line["batch"], line["requests"]) == ("batch.submitted", "info", "b1", 3)
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() is not None


def test_on_a_terminal_it_is_for_people_and_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    setup(stream=out)
    structlog.get_logger().info("ready")
    assert "\x1b[" in out.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    setup(stream=plain)
    structlog.get_logger().info("ready")
    assert "ready" in plain.getvalue()
    assert "\x1b[" not in plain.getvalue()


def break_with(prompt: str) -> None:
    raise ValueError(len(prompt))


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_shows_its_frames_and_never_the_variables_in_them(form: str) -> None:
    out = io.StringIO()
    setup("json" if form == "json" else "console", stream=out)
    try:
        break_with("s" + "ecret words")
    except ValueError:
        structlog.get_logger().exception("loop.broke")
        logging.getLogger("uvicorn.error").exception("broke too")
    assert out.getvalue().count("ValueError") >= 2
    assert "secret words" not in out.getvalue()


def test_libraries_speak_through_the_same_lines_from_warning_on() -> None:
    out = io.StringIO()
    setup(stream=out, level="debug")
    for name in ("httpx2", "anthropic", "uvicorn.access"):
        logging.getLogger(name).info("request body: …")
        logging.getLogger(name).warning("slow")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["logger"], line["level"], line["event"]) for line in lines] == [
        ("httpx2", "warning", "slow"),
        ("anthropic", "warning", "slow"),
        ("uvicorn.access", "warning", "slow"),
    ]


def test_bytes_show_their_size_only_and_debug_is_left_out_at_info() -> None:
    out = io.StringIO()
    setup("json", stream=out)
    structlog.get_logger().debug("noise")
    structlog.get_logger().info("collected", body=b"the answer")
    assert json.loads(out.getvalue())["body"] == "<10 bytes>"


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    """Its disk is full, which is when the daemon is needed."""
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115  # closing it fails too
    try:
        setup("json", stream=full)
        structlog.get_logger().error("store.full")
    finally:
        with suppress(OSError):
            full.close()
