"""The commands that steer: what they ask of the daemon, and what they say. Each against answers that are made here."""

import json
from typing import Any

import httpx2
import msgspec
import pytest

from tests.cli.conftest import FakeQueue, Run, plain

COMMANDS = (
    "queues list", "queues show", "queues set", "queues pause", "queues resume", "requests retry", "requests erase",
    "drain", "undrain",
)  # fmt: skip
SETTINGS = {"linger_s": 3.0, "priority": None, "unread_days": None}
QUEUE = {
    "name": "labels", "created_at": "2026-11-22T08:00:00.000Z", "paused": False, "paused_at": None,
    "pause_reason": None, "requests": {"queued": 2}, "settings": SETTINGS,
    "effective": {"linger_s": 3.0, "priority": 0, "unread_days": None},
}  # fmt: skip
LEFT = {
    "draining": True, "since": "2026-11-22T08:00:00.000Z", "empty": False, "queued": 2, "sent": 0, "open_batches": 1,
    "to_push": 0, "to_pull": 3, "held_by": ["queue labels is paused: why"], "stopping": False,
}  # fmt: skip
EMPTY = {**LEFT, "empty": True, "queued": 0, "open_batches": 0, "held_by": []}
GROUP = {"queue": "labels", "model": "m", "state": "errored", "error_type": "api_error", "requests": 2}


class Asked:
    """Answers in this order, and what was asked for each."""

    def __init__(self, queue: FakeQueue, *answers: Any) -> None:
        self.calls: list[tuple[str, str, Any]] = []
        self._answers = list(answers)
        queue.handle = self.answer  # type: ignore[method-assign]

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.read() or b"null")
        self.calls.append((request.method, request.url.path, body))
        given = self._answers.pop(0)
        status, value = given if isinstance(given, tuple) else (200, given)
        return httpx2.Response(status, content=msgspec.json.encode(value))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_page_with_an_example(command: str, run: Run) -> None:
    page = run(*command.split(), "--help")
    assert page.code == 0
    assert f"unhurried {command}" in plain(page.out)
    assert "--json" in page.out


def test_a_queue_is_set_by_name_and_value(run: Run, queue: FakeQueue) -> None:
    asked = Asked(queue, QUEUE)
    ran = run("queues", "set", "labels", "linger_s=3", "priority=default", "deliver_to=pull:1", "anthropic_beta=a,b")
    assert ran.code == 0, ran.err
    body = {"linger_s": 3, "priority": None, "deliver_to": "pull:1", "anthropic_beta": "a,b"}
    assert asked.calls == [("PATCH", "/queue/queues/labels", body)]
    assert "linger_s" in ran.out and "queue" in ran.out and "for ever" in ran.out


@pytest.mark.parametrize("text", ["linger_s", "linger_s="])
def test_a_setting_without_a_value_is_exit_2(text: str, run: Run, queue: FakeQueue) -> None:
    ran = run("queues", "set", "labels", text)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "SETTING=VALUE" in ran.err


def test_what_the_daemon_refuses_is_one_line_and_exit_2(run: Run, queue: FakeQueue) -> None:
    Asked(queue, (422, {"title": "no", "detail": "linger_s must be a number or null", "code": "invalid_request"}))
    ran = run("queues", "set", "labels", "linger_s=soon")
    assert (ran.code, ran.err) == (2, "unhurried: linger_s must be a number or null [invalid_request]\n")


def test_queues_are_shown_in_a_table_and_as_json(run: Run, queue: FakeQueue) -> None:
    Asked(queue, {"queues": [QUEUE, {**QUEUE, "name": "b", "paused": True, "pause_reason": "why"}]})
    ran = run("queues", "list")
    assert "paused: why" in ran.out and "linger_s=3.0" in ran.out
    Asked(queue, {"queues": [QUEUE]})
    assert json.loads(run("queues", "list", "--json").out) == QUEUE
    Asked(queue, QUEUE)
    assert json.loads(run("queues", "show", "labels", "--json").out) == QUEUE


def test_a_queue_is_paused_with_a_reason_and_resumed(run: Run, queue: FakeQueue) -> None:
    asked = Asked(queue, {**QUEUE, "paused": True, "pause_reason": "why"}, {"resumed": True}, {"resumed": False})
    assert "labels is paused: why" in run("queues", "pause", "labels", "--reason", "why").out
    assert run("queues", "resume", "labels").code == 0
    assert run("queues", "resume", "labels").code == 1
    assert asked.calls[0] == ("POST", "/queue/queues/labels/pause", {"reason": "why"})


def test_a_retry_of_many_is_a_dry_run_until_it_is_meant(run: Run, queue: FakeQueue) -> None:
    step = {"dry_run": True, "found": 2, "retried": 0, "groups": [GROUP], "cursor": "9"}
    asked = Asked(queue, step, {**step, "cursor": None})
    ran = run("requests", "retry", "--queue", "labels", "--state", "errored", "--error", "api_error", "--since", "2h")
    assert ran.code == 0
    assert "labels" in ran.out and "4" in ran.out
    assert ran.err == "4 would be queued again; nothing was done yet: repeat it with --yes\n"
    (_, path, first), (_, _, second) = asked.calls
    assert path == "/queue/requests/retry"
    assert (first["dry_run"], first["queue"], first["states"], first["error_type"]) == (
        True, "labels", ["errored"], "api_error",
    )  # fmt: skip
    assert first["since"].endswith("+00:00") and "cursor" not in first
    assert second["cursor"] == "9"


def test_with_yes_it_is_done(run: Run, queue: FakeQueue) -> None:
    asked = Asked(queue, {"dry_run": False, "found": 2, "retried": 2, "groups": [GROUP], "cursor": None})
    ran = run("requests", "retry", "--all", "--yes", "--max-wait", "60")
    assert ran.out.endswith("2 of 2 were queued again\n")
    assert asked.calls[0][2] == {"dry_run": False, "max_wait": 60.0}


@pytest.mark.parametrize(
    "arguments", ["", "--all x", "x --queue labels", "--queue a --since yesterday", "--since 2026-11-22T08:00:00"]
)
def test_a_retry_that_is_not_clear_is_exit_2(arguments: str, run: Run, queue: FakeQueue) -> None:
    ran = run("requests", "retry", *arguments.split())
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert queue.calls == []


def test_requests_are_retried_by_id_and_those_that_cannot_be_are_named(run: Run, queue: FakeQueue) -> None:
    refusal = {"title": "no", "detail": "request b cannot be sent again: it has succeeded", "code": "cannot_retry"}
    Asked(queue, {"id": "a", "state": "queued", "generation": 2}, (409, refusal))
    ran = run("requests", "retry", "a", "b")
    assert (ran.code, ran.out) == (1, "a  queued again, generation 2\n")
    assert "cannot_retry" in ran.err


def test_an_erase_says_first_what_would_go(run: Run, queue: FakeQueue) -> None:
    view = {"id": "a", "state": "succeeded", "queue": "labels", "params_bytes": 120}
    asked = Asked(queue, view, {"attempts": []}, {"request": view, "overwritten": False})
    ran = run("requests", "erase", "a")
    assert ran.code == 0 and "120 bytes" in ran.out and "--yes" in ran.err
    ran = run("requests", "erase", "a", "--yes")
    assert ran.code == 0 and "a  erased" in ran.out and "write-ahead log" in ran.err
    assert [(method, path) for method, path, _ in asked.calls] == [
        ("GET", "/queue/requests/a"),
        ("GET", "/queue/requests/a/attempts"),
        ("POST", "/queue/requests/a/erase"),
    ]


@pytest.mark.parametrize(("state", "attempts"), [("submitted", []), ("succeeded", [{"state": "open"}])])
def test_an_erase_promises_nothing_that_the_daemon_would_refuse(
    run: Run, queue: FakeQueue, state: str, attempts: list[dict[str, str]]
) -> None:
    Asked(queue, {"id": "a", "state": state, "queue": "labels", "params_bytes": 120}, {"attempts": attempts})
    ran = run("requests", "erase", "a")
    assert (ran.code, ran.out) == (1, "")
    assert "cannot be erased now: it is in a batch that is not finished" in ran.err and "--yes" not in ran.err


def test_a_flush_says_what_stays_because_of_which_pause(run: Run, queue: FakeQueue) -> None:
    held = [{"by": "queue labels is paused: why", "requests": 2}]
    Asked(queue, {"groups": 2, "requests": 3, "held": held})
    assert run("flush").out == (
        "3 requests in 2 groups: 1 will be sent now, 2 once nothing is paused\n  2: queue labels is paused: why\n"
    )
    Asked(queue, {"groups": 1, "requests": 1, "held": []})
    assert run("flush").out == "1 request in 1 group will be sent now\n"
    Asked(queue, {"groups": 0, "requests": 0, "held": []}, QUEUE)
    assert run("flush", "--queue", "labels").out == "nothing waits to be sent\n"


NOWHERE = (404, {"title": "no", "detail": "there is no queue 'nope' (there are: labels)", "code": "not_found"})


@pytest.mark.parametrize(
    ("command", "answers"),
    [
        ("flush --queue nope", [{"groups": 0, "requests": 0, "held": []}, NOWHERE]),
        ("requests list --queue nope", [{"requests": [], "cursor": None}, NOWHERE]),
        ("requests retry --queue nope", [
            {"dry_run": True, "found": 0, "retried": 0, "groups": [], "cursor": None}, NOWHERE,
        ]),
        ("queues pause nope", [NOWHERE]),
    ],
)  # fmt: skip
def test_a_queue_that_is_not_there_is_said_so(command: str, answers: list[Any], run: Run, queue: FakeQueue) -> None:
    Asked(queue, *answers)
    ran = run(*command.split())
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "unhurried: there is no queue 'nope' (there are: labels) [not_found]\n"


def test_events_since_a_time_and_of_something_unknown(run: Run, queue: FakeQueue) -> None:
    event = {"at": "2026-11-22T08:00:00Z", "actor": "uid:7", "entity": "queue", "entity_id": "labels",
             "what": "queue.paused", "old_state": None, "new_state": None, "detail": "why"}  # fmt: skip
    Asked(queue, {"events": [event]}, {"events": []}, {"events": []})
    assert "queue.paused" in run("events", "--since", "2h").out
    assert run("events", "--since", "2h").code == 0
    ran = run("events", "page-7")
    assert (ran.code, ran.out, ran.err) == (1, "", "unhurried: nothing is on record of 'page-7'\n")


def test_a_drain_says_what_is_left_and_exits_4(run: Run, queue: FakeQueue) -> None:
    Asked(queue, LEFT)
    ran = run("drain")
    assert ran.code == 4
    assert ran.out == "left: 2 queued, 1 open batch\n  queue labels is paused: why\n"
    assert "undrain" in ran.err


def test_a_drain_waits_until_nothing_is_left_and_stops_the_daemon(
    run: Run, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unhurried.cli.drain.LOOK_S", 0.001)
    asked = Asked(queue, LEFT, LEFT, LEFT, {**LEFT, "queued": 1}, EMPTY, {**EMPTY, "stopping": True})
    ran = run("drain", "--stop")
    assert (ran.code, ran.out) == (0, "nothing is left; the daemon stops\n")
    assert ran.err.count("2 queued") == 1 and ran.err.count("1 queued") == 1
    assert [body for method, _, body in asked.calls if method == "POST"] == [{"stop": False}, {"stop": True}]


def test_a_drain_gives_up_after_its_timeout(run: Run, queue: FakeQueue) -> None:
    Asked(queue, LEFT, LEFT, LEFT)
    ran = run("drain", "--wait", "--timeout", "0", "--json")
    assert (ran.code, json.loads(ran.out)["queued"]) == (4, 2)


def test_an_undrain_says_whether_there_was_anything_to_end(run: Run, queue: FakeQueue) -> None:
    Asked(queue, {"was_draining": True}, {"was_draining": False})
    assert "accepted again" in run("undrain").out
    assert json.loads(run("undrain", "--json").out) == {"was_draining": False}
