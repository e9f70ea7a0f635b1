"""``demo``, the first thing anybody runs: it works, proves it, leaves nothing running, and says what went wrong."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environ() -> Iterator[dict[str, str]]:
    """With a temporary folder of its own, of a short name: where sockets would not fit, the demo takes another."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("UNHURRIED_", "ANTHROPIC_"))}
    with tempfile.TemporaryDirectory(prefix="unhurried-") as folder:
        yield {**kept, "PYTHONPATH": str(ROOT / "service"), "TMPDIR": folder}


def demo(environ: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unhurried", "demo", *map(str, arguments)],
        env=environ, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


def running(folder: Path) -> list[str]:
    """Command lines of processes that have this folder in their arguments or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:  # it ended meanwhile, or is somebody else's
            continue
        if os.fsencode(folder / "unhurried-demo") in told:
            found.append((process / "cmdline").read_text())
    return found


def test_the_sample_comes_back_and_the_ledger_proves_that_each_was_paid_once(environ: dict[str, str]) -> None:
    ran = demo(environ)
    assert ran.returncode == 0, ran.stderr
    assert "handed back  60 of 60: 60 succeeded" in ran.stdout
    assert "60 requests, none created more than once" in ran.stdout
    folder = Path(ran.stderr.split("demo in ")[1].splitlines()[0])
    assert running(Path(environ["TMPDIR"])) == []
    with sqlite3.connect(f"file:{folder}/unhurried.db?mode=ro", uri=True) as database:
        assert database.execute("select count(*) from v_requests where state = 'succeeded'").fetchone() == (60,)
    database.close()
    assert len((folder / "results.jsonl").read_bytes().splitlines()) == 60


def test_a_file_is_repeated_to_a_count_and_told_in_json(environ: dict[str, str], tmp_path: Path) -> None:
    params = '{"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}'
    file = tmp_path / "two.jsonl"
    file.write_text(f'{{"custom_id": "a", "params": {params}}}\n{{"custom_id": "b", "params": {params}}}\n')
    ran = demo(environ, file, "--count", 2_001, "--speed", 600, "--json")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["handed_back"], told["created_upstream"], told["proved"]) == (2_001, 2_001, True)
    assert [batch["requests"] for batch in told["batches"]] == [2_001]


def test_requests_that_fail_are_exit_3(environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    params = '{"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "nobody", "content": "hi"}]}'
    file.write_text(f'{{"custom_id": "a", "params": {params}}}\n{{"custom_id": "b", "params": {{}}}}\n')
    ran = demo(environ, file, "--speed", 600)
    assert ran.returncode == 3, ran.stderr
    assert "line 2 (b)" in ran.stdout
    assert "1 of 2: 1 errored" in ran.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_broken_off_it_leaves_no_process_behind(environ: dict[str, str], number: signal.Signals, code: int) -> None:
    folder = Path(environ["TMPDIR"])
    with subprocess.Popen(
        [sys.executable, "-m", "unhurried", "demo", "--speed", "1"], env=environ, stderr=subprocess.PIPE
    ) as process:
        end = time.monotonic() + 60
        while len(running(folder)) < 2:
            assert time.monotonic() < end, "simulator and daemon are not both running after a minute"
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60) == code
    assert running(folder) == []


def test_a_daemon_that_cannot_start_is_told_with_its_log(environ: dict[str, str]) -> None:
    ran = demo({**environ, "UNHURRIED_INGEST__SOCKET_MODE": "rwx"})
    assert ran.returncode == 70
    assert "daemon ended with exit code 78" in ran.stderr
    assert "UNHURRIED_INGEST__SOCKET_MODE" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert running(Path(environ["TMPDIR"])) == []
