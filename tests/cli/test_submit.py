"""``submit``: the caller's bytes, nothing twice, a complete output however often it was cut off."""

import fcntl
import json
from pathlib import Path

import httpx2
import msgspec
import pytest

from tests.cli.conftest import RESULT, FakeQueue, Run, request_line
from unhurried.cli import transfer
from unhurried.cli.jobfile import Options, envelopes, file_source, survey


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(transfer, "LOOKUP_PAUSE_S", 0.0)


def ids(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def test_params_reach_the_daemon_byte_for_byte(run: Run, queue: FakeQueue, tmp_path: Path) -> None:
    params = b'{ "model":"m" ,"max_tokens": 1e1, "new_field":[1.0,  "\\u00e9", 18446744073709551616], "messages":[{}] }'
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b'{"params": %s, "custom_id": "x", "metadata": {"k": 1} }  \r\n' % params)
    assert run("submit", path).code == 0
    (kept,) = queue.requests.values()
    assert kept.params == params
    assert kept.line["metadata"] == {"k": 1}


def test_results_are_written_verbatim_with_the_callers_custom_id(run: Run, queue: FakeQueue, jobs: Path) -> None:
    output = jobs.with_name("results.jsonl")
    ran = run("submit", jobs, "--output", output, "--json")
    assert ran.code == 0
    assert sorted(output.read_bytes().splitlines()) == [
        b'{"custom_id":"%s","result":%s}' % (n, RESULT) for n in (b"a", b"b", b"c")
    ]
    assert {kept.delivery for kept in queue.requests.values()} == {"delivered"}
    assert json.loads(ran.out)["outcomes"] == {"succeeded": 3}


def test_with_wait_alone_results_go_to_stdout_and_the_summary_to_stderr(run: Run, queue: FakeQueue, jobs: Path) -> None:
    ran = run("submit", jobs, "--wait")
    assert [json.loads(line)["custom_id"] for line in ran.out.splitlines()] == ["a", "b", "c"]
    assert "3 requests in" in ran.err


def test_the_same_file_again_sends_nothing_and_says_so(run: Run, queue: FakeQueue, jobs: Path) -> None:
    run("submit", jobs)
    renamed = jobs.rename(jobs.with_name("other.jsonl"))
    ran = run("submit", renamed)
    assert len(queue.requests) == 3
    assert "0 accepted, 3 known already" in ran.out
    assert "--again NAME" in ran.out
    again = run("submit", renamed, "--again", "tuesday")
    assert "3 accepted" in again.out
    assert len(queue.requests) == 6


def test_another_text_under_the_same_custom_id_is_another_request(run: Run, queue: FakeQueue, jobs: Path) -> None:
    run("submit", jobs)
    jobs.write_text(request_line("a", "something else"))
    run("submit", jobs)
    assert len(queue.requests) == 4


def test_a_second_run_completes_an_output_from_results_acknowledged_before(
    run: Run, queue: FakeQueue, jobs: Path
) -> None:
    first, second = jobs.with_name("1.jsonl"), jobs.with_name("2.jsonl")
    run("submit", jobs, "--output", first)
    assert run("submit", jobs, "--output", second).code == 0
    assert ids(second) == ["a", "b", "c"]
    assert len(queue.requests) == 3


def test_a_torn_last_line_is_cut_off_and_written_again(run: Run, queue: FakeQueue, jobs: Path) -> None:
    output = jobs.with_name("results.jsonl")
    run("submit", jobs, "--output", output)
    whole = output.read_bytes()
    output.write_bytes(whole[:-20])
    assert run("submit", jobs, "--output", output).code == 0
    assert output.read_bytes() == whole


def test_what_was_written_but_not_acknowledged_before_a_kill_is_acknowledged_by_the_next_run(
    run: Run, queue: FakeQueue, jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = jobs.with_name("results.jsonl")
    with monkeypatch.context() as killed:
        killed.setattr("unhurried.client.Client.ack", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run("submit", jobs, "--output", output).code == 130
    assert ids(output) == ["a", "b", "c"]
    assert {kept.delivery for kept in queue.requests.values()} == {"sending"}
    assert run("submit", jobs, "--output", output).code == 0
    assert ids(output) == ["a", "b", "c"]
    assert {kept.delivery for kept in queue.requests.values()} == {"delivered"}


def test_an_output_with_foreign_custom_ids_is_refused(run: Run, queue: FakeQueue, jobs: Path) -> None:
    output = jobs.with_name("results.jsonl")
    output.write_bytes(b'{"custom_id":"z","result":{"type":"succeeded"}}\n')
    ran = run("submit", jobs, "--output", output)
    assert ran.code == 2
    assert "belongs to another run" in ran.err
    assert queue.calls == []


def test_an_output_of_another_run_of_the_same_custom_ids_is_refused(run: Run, queue: FakeQueue, jobs: Path) -> None:
    output = jobs.with_name("results.jsonl")
    run("submit", jobs, "--output", output)
    ran = run("submit", jobs, "--output", output, "--again", "b")
    assert ran.code == 2
    assert "belongs to another run" in ran.err
    assert len(queue.requests) == 3


def test_two_runs_cannot_write_one_output(run: Run, queue: FakeQueue, jobs: Path) -> None:
    output = jobs.with_name("results.jsonl")
    with output.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ran = run("submit", jobs, "--output", output)
    assert (ran.code, "another `unhurried submit`" in ran.err) == (2, True)


def test_an_output_that_cannot_be_made_is_exit_73(run: Run, queue: FakeQueue, jobs: Path) -> None:
    assert run("submit", jobs, "--output", jobs.parent / "no" / "where.jsonl").code == 73


def test_outcomes_that_are_no_success_are_exit_3(run: Run, queue: FakeQueue, jobs: Path) -> None:
    queue.answer_at_once = b'{"type":"errored","error":{}}'
    ran = run("submit", jobs, "--output", jobs.with_name("results.jsonl"))
    assert ran.code == 3
    assert "3 errored" in ran.out


def test_a_refused_line_is_named_and_the_others_go_on(run: Run, queue: FakeQueue, jobs: Path) -> None:
    jobs.write_text(request_line("a") + '{"custom_id":"bad","params":{}}\n' + request_line("c"))
    output = jobs.with_name("results.jsonl")
    ran = run("submit", jobs, "--output", output)
    assert ran.code == 3
    assert "line 2 (bad): params: no model" in ran.err
    assert ids(output) == ["a", "c"]


def test_a_daemon_that_goes_away_is_waited_for(run: Run, queue: FakeQueue, jobs: Path) -> None:
    def gone() -> httpx2.Response:
        raise httpx2.ConnectError("gone")

    def draining() -> httpx2.Response:
        return httpx2.Response(503, headers={"retry-after": "1"}, json={"detail": "draining", "code": "draining"})

    def upload_then_trouble() -> httpx2.Response:
        queue.broken = [gone, draining, gone]
        return queue._bulk(uploads[0])

    uploads = [b"\n".join(e.line for e in envelopes(file_source(jobs), destination(jobs), Options(collect=True)))]
    queue.broken = [upload_then_trouble]
    ran = run("submit", jobs, "--output", jobs.with_name("results.jsonl"))
    assert ran.code == 0
    assert "trying again" in ran.err
    assert "the daemon is there again" in ran.err
    assert len(queue.requests) == 3


def destination(jobs: Path) -> str:
    return survey(file_source(jobs), "", Options(collect=True)).destination


def test_results_to_another_destination_are_looked_up(run: Run, queue: FakeQueue, jobs: Path) -> None:
    """A longer file with the same lines: the first ones were sent by the shorter file's run."""
    run("submit", jobs)
    jobs.write_text(jobs.read_text() + request_line("d"))
    output = jobs.with_name("results.jsonl")
    assert run("submit", jobs, "--output", output).code == 0
    assert sorted(ids(output)) == ["a", "b", "c", "d"]
    assert len(queue.requests) == 4


def test_a_delivery_under_the_callers_own_key_is_left_to_its_owner(run: Run, queue: FakeQueue, jobs: Path) -> None:
    line = {"custom_id": "theirs", "params": {"model": "m"}, "idempotency_key": "app-1", "deliver_to": "pull:app"}
    queue._accept(1, msgspec.json.encode(line))
    del line["deliver_to"]
    jobs.write_bytes(msgspec.json.encode({**line, "custom_id": "mine"}) + b"\n")
    output = jobs.with_name("results.jsonl")
    assert run("submit", jobs, "--output", output).code == 0
    assert ids(output) == ["mine"]
    assert [kept.delivery for kept in queue.requests.values()] == ["pending"]


def test_options_apply_to_lines_that_do_not_say_it_themselves(run: Run, queue: FakeQueue, jobs: Path) -> None:
    params = {"model": "m"}
    lines = [{"custom_id": "a", "params": params}, {"params": params, "queue": "own", "priority": -1, "max_wait": 5}]
    jobs.write_text("\n\n".join(json.dumps(line) for line in lines))
    run("submit", jobs, "--queue", "labels", "--priority", 3, "--deadline", "2099-01-01T00:00:00Z", "--flush")
    first, second = [kept.line for kept in queue.requests.values()]
    assert (first["queue"], first["priority"], first["deadline"]) == ("labels", 3, "2099-01-01T00:00:00Z")
    assert (second["queue"], second["priority"], second["max_wait"]) == ("own", -1, 5)
    assert "deadline" not in second
    assert second["custom_id"] == "line-3"
    assert "POST /queue/flush" in queue.calls


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "has no requests"),
        (b"\n \n", "has no requests"),
        (b'{"custom_id":"a","params":{}}\n{"custom_id":', ":2: not JSON"),
        (b'{"custom_id":"a"}\n', ":1: Object missing required field `params`"),
        (b'{"custom_id":"a","params":[]}\n', ":1: params must be an object"),
        (b'{"custom_id":"%s","params":{}}\n' % (65 * b"x"), ":1: custom_id has 65 characters"),
        (b'{"custom_id":"a b","params":{}}\n', ":1: custom_id has 3 characters"),
        (b'{"custom_id":"a","params":{}}\n' * 2, ":2: custom_id 'a' stands in an earlier line"),
        (b'{"custom_id":"\xff","params":{}}\n', ":1: not UTF-8"),
        (b'{"custom_id":"a","params":{},"deliver_to":"pull:x"}\n', ":1: deliver_to sends its result elsewhere"),
        (b"[" * 100_000, ":1: "),
    ],
)
def test_a_wrong_file_is_exit_2_with_line_numbers_before_anything_is_sent(
    content: bytes, says: str, run: Run, queue: FakeQueue, tmp_path: Path
) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(content)
    ran = run("submit", path, "--output", tmp_path / "out.jsonl")
    assert ran.code == 2
    assert says in ran.err
    assert "Traceback" not in ran.err
    assert queue.calls == []
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    "options", [("--deadline", "tomorrow"), ("--again", "a b"), ("--deadline", "2099-01-01T00:00:00Z", "--max-wait", 5)]
)
def test_impossible_options_are_exit_2(options: tuple[object, ...], run: Run, queue: FakeQueue, jobs: Path) -> None:
    assert run("submit", jobs, *options).code == 2
    assert queue.calls == []


def test_a_file_that_is_not_there_is_exit_2(run: Run, queue: FakeQueue) -> None:
    ran = run("submit", "/nowhere/at/all.jsonl")
    assert (ran.code, ran.err) == (2, "unhurried: /nowhere/at/all.jsonl: No such file or directory\n")


def test_a_large_file_goes_up_in_blocks(run: Run, queue: FakeQueue, jobs: Path) -> None:
    jobs.write_text("".join(request_line(f"r{n}") for n in range(2_500)))
    assert run("submit", jobs, "--output", jobs.with_name("out.jsonl")).code == 0
    assert queue.calls.count("POST /queue/requests") == 3
    assert len(ids(jobs.with_name("out.jsonl"))) == 2_500
