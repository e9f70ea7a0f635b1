"""The operator's routes: lists, cancel, look-up, flush, batches, events, status, health."""

import os
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.ingest.daemon import Daemon, envelope, running


async def _accepted(client: httpx2.AsyncClient, **fields: Any) -> str:
    answer = await client.post(
        "/queue/requests", content=envelope(**fields), headers={"content-type": "application/json"}
    )
    id: str = answer.json()["id"]
    return id


async def test_requests_are_listed_newest_first_in_pages(client: httpx2.AsyncClient) -> None:
    ids = [await _accepted(client) for _ in range(5)]
    found: list[str] = []
    cursor = ""
    for _ in range(3):
        page = (await client.get(f"/queue/requests?limit=2{cursor}")).json()
        found += [request["id"] for request in page["requests"]]
        cursor = f"&cursor={page['cursor']}"
    assert found == ids[::-1]


async def test_a_list_can_be_narrowed_down(client: httpx2.AsyncClient) -> None:
    wanted = await _accepted(client, queue="reports", custom_id="row-1")
    await _accepted(client, queue="reports", custom_id="row-2")
    await _accepted(client, custom_id="row-1")
    page = (await client.get("/queue/requests?queue=reports&custom_id=row-1&state=queued")).json()
    assert [request["id"] for request in page["requests"]] == [wanted]
    assert (await client.get("/queue/requests?state=succeeded")).json()["requests"] == []


async def test_a_queued_request_is_canceled_at_once(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    id = await _accepted(client)
    canceled = await client.post(f"/queue/requests/{id}/cancel")
    assert (canceled.status_code, canceled.json()["state"]) == (200, "canceled")
    assert canceled.json()["result"] == {"type": "canceled"}
    again = await client.post(f"/queue/requests/{id}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "already_finished")
    assert len((await client.get("/queue/results")).json()["results"]) == 1


async def test_a_request_on_its_way_is_only_flagged(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    id = await _accepted(client)
    other = await _accepted(client)
    await daemon.finish([other])  # both are in the batch, and only one has its result
    flagged = await client.post(f"/queue/requests/{id}/cancel")
    assert (flagged.status_code, flagged.json()["state"]) == (202, "submitted")
    assert flagged.json()["cancel_requested_at"] is not None
    assert daemon.deps.bells.poller.event.is_set()
    finished = await client.post(f"/queue/requests/{other}/cancel")
    assert (finished.status_code, finished.json()["code"]) == (409, "already_finished")


async def test_what_is_not_there_cannot_be_canceled(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/queue/requests/01a202f3-595f-72d5-911c-a017d33fef52/cancel")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_results_are_looked_up_by_id_without_a_lease(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    ids = [await _accepted(client) for _ in range(3)]
    await daemon.finish(ids[:2])
    for _ in range(2):
        answer = await client.post("/queue/results/lookup", json={"ids": [ids[1], "nobody", ids[2], ids[0], ids[1]]})
        assert answer.json()["truncated"] is False
        assert [result["request_id"] for result in answer.json()["results"]] == [ids[1], ids[0]]
        assert answer.json()["results"][0]["delivery_id"] == f"{ids[1]}.1"
    assert len((await client.get("/queue/results")).json()["results"]) == 2


async def test_a_look_up_that_grows_too_large_says_that_there_is_more(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    ids = [await _accepted(client) for _ in range(4)]
    await daemon.finish(ids, b'{"type":"succeeded","message":{"x":"%s"}}' % (b"y" * 12_000_000))
    first = (await client.post("/queue/results/lookup", json={"ids": ids})).json()
    assert first["truncated"] is True
    seen = [result["request_id"] for result in first["results"]]
    second = (await client.post("/queue/results/lookup", json={"ids": [id for id in ids if id not in seen]})).json()
    assert second["truncated"] is False
    assert seen + [result["request_id"] for result in second["results"]] == ids


async def test_a_request_shows_the_batch_that_answered_it_and_every_attempt(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    id = await _accepted(client)
    assert (await client.get(f"/queue/requests/{id}/attempts")).json() == {"attempts": []}
    await daemon.finish(
        [id],
        b'{"type":"succeeded","message":{"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":5}}}',
    )
    [batch] = (await client.get("/queue/batches")).json()["batches"]
    shown = (await client.get(f"/queue/requests/{id}")).json()
    assert (shown["batch"], shown["upstream_batch"]) == (batch["id"], batch["upstream_id"])
    [attempt] = (await client.get(f"/queue/requests/{id}/attempts")).json()["attempts"]
    assert attempt.pop("ended_at").endswith("Z")
    assert attempt == {
        "batch": batch["id"],
        "upstream_batch": batch["upstream_id"],
        "custom_id": f"{batch['nonce']}-{id}",
        "state": "succeeded",
        "won": True,
        "error_type": None,
        "stop_reason": "end_turn",
        "input_tokens": 3,
        "output_tokens": 5,
    }
    missing = await client.get("/queue/requests/01a202f3-595f-72d5-911c-a017d33fef52/attempts")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


async def test_a_flush_asks_for_what_waits_and_wakes_the_flusher(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    await _accepted(client, queue="a")
    await _accepted(client, queue="b")
    daemon.deps.bells.flusher.event.clear()
    assert (await client.post("/queue/flush", json={"queue": "a"})).json() == {"groups": 1, "requests": 1, "held": []}
    assert daemon.deps.bells.flusher.event.is_set()
    assert (await client.post("/queue/flush", json={})).json() == {"groups": 2, "requests": 2, "held": []}
    nothing = {"groups": 0, "requests": 0, "held": []}
    assert (await client.post("/queue/flush", json={"model": "another"})).json() == nothing
    await client.post("/queue/queues/a/pause", json={"reason": "why"})
    held = [{"by": "queue a is paused: why", "requests": 1}]
    assert (await client.post("/queue/flush", json={})).json() == {"groups": 2, "requests": 2, "held": held}
    events = (await client.get("/queue/events?entity=*")).json()["events"]
    assert {event["actor"] for event in events} == {f"uid:{os.getuid()}"}


async def test_a_batch_is_shown_with_its_history(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    ids = [await _accepted(client) for _ in range(2)]
    await daemon.finish(ids[:1])
    [batch] = (await client.get("/queue/batches?open=true")).json()["batches"]
    assert (batch["requests"], batch["members_open"], batch["state"]) == (2, 1, "ended")
    assert "events" not in batch
    single = (await client.get(f"/queue/batches/{batch['id']}")).json()
    assert single["attempts_by_state"] == {"open": 1, "succeeded": 1}
    assert single["events"] and single["upstream_id"].startswith("msgbatch_")
    assert (await client.get(f"/queue/batches?before={batch['id']}")).json() == {"batches": []}
    assert (await client.get("/queue/batches/nobody")).status_code == 404
    members = (await client.get(f"/queue/requests?batch={batch['id']}")).json()["requests"]
    assert {request["id"] for request in members} == set(ids)


async def test_events_are_listed_for_all_or_for_one(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    id = await _accepted(client)
    await client.post(f"/queue/requests/{id}/cancel")
    events = (await client.get(f"/queue/events?entity={id}")).json()["events"]
    assert events and {event["entity_id"] for event in events} == {id}
    assert (await client.get("/queue/events?limit=1")).json()["events"] == events[-1:]


async def test_status_has_the_store_the_account_and_this_process(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    await _accepted(client, queue="reports")
    daemon.deps.health.watch.watch("flusher", daemon.clock.now())  # type: ignore[attr-defined]
    status = (await client.get("/queue/status")).json()
    assert status["requests"] == {"reports": {"queued": 1}}
    assert status["account"]["base_url"] == "http://up"
    process = status["daemon"]
    assert process["upstream"] == {"base_url": "http://up", "simulator": True}
    assert process["epoch"] == 1 and process["uptime_s"] >= 0
    assert process["memory"]["rss_peak_bytes"] >= process["memory"]["rss_ready_bytes"] > 0
    assert process["loops"].keys() == {"flusher"}
    assert process["stall"].keys() == {"p99_ms", "max_ms"}


async def test_events_are_listed_since_a_time(client: httpx2.AsyncClient) -> None:
    await _accepted(client, queue="a")
    await client.post("/queue/queues/a/pause", json={})
    [event] = (await client.get("/queue/events", params={"entity": "a", "since": "2020-01-01T00:00:00Z"})).json()[
        "events"
    ]
    assert event["what"] == "queue.paused"
    assert (await client.get("/queue/events", params={"since": "2096-01-01T00:00:00Z"})).json() == {"events": []}
    refused = await client.get("/queue/events", params={"since": "2h"})
    assert (refused.status_code, refused.json()["field"]) == (422, "since")


async def test_status_says_that_the_daemon_drains_since_when_and_at_whose_word(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/queue/status")).json()["daemon"]["draining"] is None
    told = (await client.post("/queue/drain", json={})).json()
    draining = (await client.get("/queue/status")).json()["daemon"]["draining"]
    assert draining == {"since": told["since"], "actor": f"uid:{os.getuid()}"}
    await client.post("/queue/undrain")
    assert (await client.get("/queue/status")).json()["daemon"]["draining"] is None


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("GET", "/queue/requests?state=open", "state: must be 'queued', 'assigned', "),
        ("GET", "/queue/requests?colour=red", "'colour' is not known here; there are queue, state, batch"),
        ("GET", "/queue/status?colour=red", "'colour' is not known here; there are none"),
        ("PATCH", "/queue/queues/labels", "'linger' is not known here; there are linger_s, batch_requests_max"),
    ],
)
async def test_what_is_unknown_is_named_and_so_is_what_there_is(
    client: httpx2.AsyncClient, method: str, path: str, says: str
) -> None:
    answer = await client.request(method, path, json={"linger": 3} if method == "PATCH" else None)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(says)


async def test_a_paused_account_can_be_resumed(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    await daemon.store.pause_account("spend limit", None, "test", daemon.clock.now())
    status = (await client.get("/queue/status")).json()
    assert (status["account"]["paused"], status["account"]["pause_reason"]) == (True, "spend limit")
    assert (await client.post("/queue/account/resume")).json() == {"resumed": True}
    assert daemon.deps.bells.submission.event.is_set()
    assert (await client.post("/queue/account/resume")).json() == {"resumed": False}


async def test_health_and_readiness(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    assert (await client.get("/healthz")).json()["status"] == "ok"
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "reason": None})
    assert (await client.head("/readyz")).status_code == 200
    daemon.draining.set()
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/healthz")).status_code == 200


async def test_a_loop_that_hangs_makes_the_daemon_unhealthy_and_a_daemon_that_goes_down_is_not_judged(
    daemon: Daemon, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon.deps.health, "hanging", lambda: ["keeper", "waiters"])
    answer = await client.get("/healthz")
    assert (answer.status_code, answer.json()["code"]) == (503, "stalled")
    assert "keeper, waiters" in answer.json()["detail"]
    daemon.draining.set()
    assert (await client.get("/healthz")).status_code == 200


async def test_the_document_has_the_longest_wait_of_the_settings(tmp_path: Path) -> None:
    async with running(tmp_path, wait_max_s=17.0) as daemon, daemon.client() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    for path in ("/queue/requests/{id}", "/queue/results"):
        [wait] = [one for one in paths[path]["get"]["parameters"] if one["name"] == "wait"]
        assert wait["schema"]["maximum"] == 17.0


@pytest.mark.parametrize("path", ["/queue/requests", "/queue/requests/{id}", "/queue/results", "/queue/results/ack"])
async def test_the_document_describes_the_hot_routes_too(client: httpx2.AsyncClient, path: str) -> None:
    document = (await client.get("/openapi.json")).json()
    for operation in document["paths"][path].values():
        assert any(kind.startswith("2") for kind in operation["responses"])
        assert "422" in operation["responses"]


async def test_a_mistake_of_ours_is_a_problem_and_not_a_cut_connection(
    daemon: Daemon, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    for name, path in (("status", "/queue/status"), ("request", f"/queue/requests/{'x' * 36}")):
        monkeypatch.setattr(daemon.store, name, broken)
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert answer.headers["content-type"] == "application/problem+json"
