"""The commands about destinations and deliveries: what they ask of the daemon, and what they tell."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from tests.cli.conftest import Run

WEBHOOK: dict[str, Any] = {
    "name": "webhook:app", "kind": "webhook", "state": "failing", "origin": "https://app.test",
    "url": "https://app.test/a-secret-path", "secrets": ["env:APP"], "concurrency": None,
    "created_at": "2026-11-22T08:00:00.000Z", "deliveries": {"pending": 3, "sending": 1, "dead": 2},
    "next_due_at": None, "failures": 2, "failing_since": "2026-11-22T08:00:00.000Z", "open_until": None,
    "paused_at": None, "pause_reason": None,
}  # fmt: skip
DELIVERY: dict[str, Any] = {
    "id": "r1.2", "destination": "webhook:app", "state": "pending", "request_id": "r1", "request_state": "succeeded",
    "custom_id": "row-7", "queue": "labels", "attempts": 3, "created_at": "2026-11-22T08:00:00.000Z",
    "due_at": "2036-11-22T08:00:00.000Z", "finished_at": None, "confirmed_by": None,
    "last_failed_at": "2026-11-22T08:01:00.000Z", "last_status": 500, "last_error": "the receiver answered 500",
}  # fmt: skip

Answers = dict[str, Any]
Asked = list[tuple[str, Any]]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answers], Asked]:
    """A daemon that answers each call with what a test has for it, and remembers what it was asked."""

    def start(answers: Answers) -> Asked:
        asked: Asked = []

        def handle(request: httpx2.Request) -> httpx2.Response:
            call = f"{request.method} {request.url.path}"
            given = json.loads(request.content) if request.content else dict(request.url.params)
            asked.append((call, given))
            answer = answers[call]
            status, body = answer if isinstance(answer, tuple) else (200, answer)
            return httpx2.Response(status, content=body if isinstance(body, bytes) else msgspec.json.encode(body))

        monkeypatch.setattr(httpx2, "HTTPTransport", lambda uds: httpx2.MockTransport(handle))
        monkeypatch.setenv("UNHURRIED_SOCKET", "/nowhere/queue.sock")
        return asked

    return start


Start = Callable[[Answers], Asked]


def test_destinations_are_listed_without_the_paths_of_their_urls(daemon: Start, run: Run) -> None:
    listed = {name: value for name, value in WEBHOOK.items() if name not in ("url", "secrets")}
    daemon({"GET /queue/destinations": {"destinations": [listed], "cursor": None}})
    ran = run("destinations", "list")
    assert ran.out.splitlines()[1].split()[:5] == ["webhook:app", "failing", "4", "0", "2"]
    assert "2 failures in a row" in ran.out and "a-secret-path" not in ran.out
    assert json.loads(run("destinations", "list", "--json").out) == listed


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"next_due_at": "2026-11-22T08:00:00Z"}, "now, due since 2026-11-22T08:00:00Z"),
        ({"next_due_at": "2026-11-22T08:00:00Z", "open_until": "2096-11-22T08:00:00Z"}, "2096-11-22T08:00:00Z (in "),
        ({"next_due_at": "2096-11-22T08:00:00Z"}, "2096-11-22T08:00:00Z (in "),
        ({"next_due_at": "2026-11-22T08:00:00Z", "paused_at": "2026-11-22T08:00:00Z"}, "once it is resumed"),
        ({"failures": 1}, "1 failure in a row for "),
    ],
)
def test_the_next_attempt_is_when_it_may_be_made(daemon: Start, run: Run, changes: dict[str, Any], says: str) -> None:
    daemon({"GET /queue/destinations/webhook:app": WEBHOOK | changes, "GET /queue/events": {"events": []}})
    assert says in run("destinations", "show", "app").out


def test_a_list_goes_through_its_pages_until_it_has_enough(daemon: Start, run: Run) -> None:
    listed = {name: value for name, value in WEBHOOK.items() if name not in ("url", "secrets")}
    asked = daemon({"GET /queue/destinations": {"destinations": [listed], "cursor": "webhook:app"}})
    ran = run("destinations", "list", "--limit", "2", "--kind", "webhook")
    assert ran.out.count("webhook:app") == 2 and "there are more" in ran.err
    assert [given for _, given in asked] == [
        {"kind": "webhook", "limit": "2"}, {"kind": "webhook", "limit": "1", "after": "webhook:app"},
    ]  # fmt: skip


def test_a_destination_is_shown_with_its_events(daemon: Start, run: Run) -> None:
    event = {"at": "t", "what": "destination.failing", "detail": "5 failures in a row"}
    daemon({"GET /queue/destinations/webhook:app": WEBHOOK, "GET /queue/events": {"events": [event]}})
    ran = run("destinations", "show", "app")
    for text in ("https://app.test/a-secret-path", "env:APP", "2 dead, 3 pending, 1 sending", "destination.failing"):
        assert text in ran.out
    assert json.loads(run("destinations", "show", "app", "--json").out)["events"] == [event]


def test_a_webhook_is_added_and_it_is_said_how_to_use_it(daemon: Start, run: Run) -> None:
    asked = daemon({"PUT /queue/destinations/webhook:app": (201, WEBHOOK)})
    ran = run("destinations", "add", "app", "https://app.test/x", "--secret", "env:A", "--secret", "env:B",
              "--concurrency", "4")  # fmt: skip
    body = {"url": "https://app.test/x", "secrets": ["env:A", "env:B"], "concurrency": 4}
    assert asked == [("PUT /queue/destinations/webhook:app", body)]
    assert '"deliver_to": "webhook:app"' in ran.out
    assert "unhurried destinations test webhook:app" in ran.out
    assert "standardwebhooks" in ran.out


def test_a_new_secret_is_written_for_its_owner_only_and_named_first(daemon: Start, run: Run, tmp_path: Path) -> None:
    asked = daemon({"PUT /queue/destinations/webhook:app": WEBHOOK})
    file = tmp_path / "app.secret"
    ran = run("destinations", "add", "app", "https://app.test/x", "--generate-secret", file, "--secret", "env:OLD")
    assert asked[0][1]["secrets"] == [f"file:{file}", "env:OLD"]
    assert file.stat().st_mode & 0o777 == 0o600
    secret = file.read_text()
    assert secret.startswith("whsec_") and secret.strip() not in ran.out + ran.err
    again = run("destinations", "add", "app", "https://app.test/x", "--generate-secret", file)
    assert again.code == 73 and f"--secret file:{file}" in again.err
    assert file.read_text() == secret


def test_a_secret_for_a_webhook_that_was_refused_is_not_left_behind(daemon: Start, run: Run, tmp_path: Path) -> None:
    problem = {"status": 422, "detail": "this URL cannot be used: no", "code": "invalid_request", "field": "url"}
    daemon({"PUT /queue/destinations/webhook:app": (422, problem)})
    file = tmp_path / "app.secret"
    ran = run("destinations", "add", "app", "gopher://x", "--generate-secret", file)
    assert (ran.code, ran.err) == (2, "unhurried: this URL cannot be used: no [invalid_request]\n")
    assert not file.exists()


def test_a_secret_that_cannot_be_written_is_one_line(daemon: Start, run: Run) -> None:
    asked = daemon({})
    ran = run("destinations", "add", "app", "https://app.test/", "--generate-secret", "/nowhere/at/all")
    assert ran.code == 73 and ran.err.count("\n") == 1
    assert asked == []


def test_pausing_and_resuming_say_what_was_done(daemon: Start, run: Run) -> None:
    asked = daemon({
        "POST /queue/destinations/webhook:app/pause": {"paused": True},
        "POST /queue/destinations/webhook:app/resume": {"resumed": True},
        "POST /queue/destinations/webhook:other/resume": {"resumed": False},
    })  # fmt: skip
    assert run("destinations", "pause", "app", "--reason", "it moves").out == "webhook:app is paused\n"
    assert asked[-1][1] == {"reason": "it moves"}
    assert run("destinations", "resume", "webhook:app").out == "webhook:app is tried now\n"
    refused = run("destinations", "resume", "other")
    assert (refused.code, refused.err) == (1, "unhurried: webhook:other is not paused, and no attempt is put off\n")


@pytest.mark.parametrize(
    ("outcome", "status", "code"), [("delivered", 204, 0), ("failed", 500, 1), ("failed", None, 1)]
)
def test_a_test_says_what_came_of_it_and_its_exit_code_too(
    daemon: Start, run: Run, outcome: str, status: int | None, code: int
) -> None:
    told = {"outcome": outcome, "status": status, "ms": 1_234, "detail": "why", "advice": "do that"}
    daemon({"POST /queue/destinations/webhook:app/test": told})
    ran = run("destinations", "test", "app")
    assert ran.code == code
    assert f"{status or 'nothing'} after 1,234 ms" in ran.out and "do that" in ran.out
    shown = run("destinations", "test", "app", "--json")
    assert (shown.code, json.loads(shown.out)) == (code, told)


def test_deliveries_are_listed_and_one_is_shown(daemon: Start, run: Run) -> None:
    asked = daemon({
        "GET /queue/deliveries": {"deliveries": [DELIVERY], "cursor": None},
        "GET /queue/deliveries/r1.2": DELIVERY,
        "GET /queue/events": {"events": []},
    })  # fmt: skip
    ran = run(
        "deliveries", "list", "--destination", "webhook:app", "--state", "dead", "--since", "2026-11-22T08:00:00Z"
    )
    assert "r1.2" in ran.out and "the receiver answered 500" in ran.out
    assert asked[0][1] == {
        "destination": "webhook:app", "state": "dead", "since": "2026-11-22T08:00:00Z", "limit": "50"
    }  # fmt: skip
    assert json.loads(run("deliveries", "list", "--json").out) == DELIVERY
    assert "2036-11-22" in run("deliveries", "show", "r1.2").out
    assert json.loads(run("deliveries", "show", "r1.2", "--json").out) == {**DELIVERY, "events": []}


def test_one_is_delivered_again_at_once_and_a_refusal_is_exit_1(daemon: Start, run: Run) -> None:
    problem = {
        "status": 409,
        "detail": "r1.1 cannot be delivered again: r1.2 took its place",
        "code": "not_redeliverable",
    }
    daemon({
        "POST /queue/deliveries/r1.2/redeliver": (202, {**DELIVERY, "id": "r1.3"}),
        "POST /queue/deliveries/r1.1/redeliver": (409, problem),
    })  # fmt: skip
    assert run("deliveries", "redeliver", "r1.2").out == "r1.3 takes its place and is pending\n"
    refused = run("deliveries", "redeliver", "r1.1")
    assert (refused.code, refused.err) == (1, f"unhurried: {problem['detail']}\n")


def test_many_are_counted_and_nothing_is_done_without_yes(daemon: Start, run: Run) -> None:
    asked = daemon({"POST /queue/deliveries/redeliver": {"deliveries": 7, "dry_run": True}})
    ran = run("deliveries", "redeliver", "--destination", "webhook:app")
    assert (ran.code, ran.out) == (0, "")
    assert "7 would be delivered again" in ran.err and "--yes" in ran.err
    assert asked[-1][1] == {"destination": "webhook:app", "states": ["dead"], "since": None, "dry_run": True}
    done = run("deliveries", "redeliver", "--destination", "webhook:app", "--state", "pending", "--yes")
    assert done.out == "7 results delivered again to webhook:app\n"
    assert asked[-1][1] == {"destination": "webhook:app", "states": ["pending"], "since": None, "dry_run": False}
    run("deliveries", "redeliver", "--destination", "app", "--since", "2h")
    assert asked[-1][1]["destination"] == "webhook:app"
    assert asked[-1][1]["since"].endswith("+00:00")


@pytest.mark.parametrize(
    "arguments",
    [
        "deliveries redeliver",
        "deliveries redeliver r1.1 --destination webhook:app",
        "deliveries redeliver r1.1 --state dead",
        "deliveries redeliver --destination webhook:app --since yesterday",
        "deliveries list --since 5",
        "destinations add app",
        "destinations add app https://app.test/ --concurrency 0",
    ],
)
def test_a_mistake_on_the_command_line_asks_nothing_of_the_daemon(daemon: Start, run: Run, arguments: str) -> None:
    asked = daemon({})
    ran = run(*arguments.split())
    assert ran.code == 2 and ran.err.count("\n") == 1
    assert asked == []


def test_a_stream_is_printed_and_acknowledged_one_by_one(daemon: Start, run: Run) -> None:
    events = b"retry: 2000\n\n" + b"".join(
        b': ping\n\nid: %d\nevent: result\ndata: {"delivery_id": "r%d.1", "request_id": "r%d",\n'
        b'data:  "state": "succeeded", "result": {"a":  1}}\n\n' % (n, n, n)
        for n in (1, 2)
    )
    asked = daemon({
        "GET /queue/results/stream": events,
        "POST /queue/results/ack": {"confirmed": ["x"], "already": [], "unknown": []},
    })  # fmt: skip
    ran = run("results", "stream", "--destination", "pull:labels", "--ack", "--window", "5", "--wait", "1")
    shown = [json.loads(line) for line in ran.out.splitlines()]
    assert [(one["delivery_id"], one["event_id"]) for one in shown] == [("r1.1", 1), ("r2.1", 2)]
    assert '{"a":  1}' in ran.out  # byte for byte
    assert asked[0][1] == {"destination": "pull:labels", "window": "5", "wait": "1.0"}
    assert [given["delivery_ids"] for call, given in asked if call.endswith("/ack")] == [["r1.1"], ["r2.1"]]
