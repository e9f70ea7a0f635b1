"""Queues with settings, draining, retries and erasing, over HTTP."""

import asyncio
import json
from typing import Any

import httpx2
import pytest

from tests.ingest.daemon import PARAMS, Daemon, envelope
from unhurried.clock import after
from unhurried.domain.queue import SETTINGS
from unhurried.ingest.api import queues

INVALID = b'{"type":"errored","error":{"type":"error","error":{"type":"invalid_request_error","message":"m"}}}'
JSON = {"content-type": "application/json"}


async def take(client: httpx2.AsyncClient, **fields: Any) -> httpx2.Response:
    return await client.post("/queue/requests", content=envelope(**fields), headers=JSON)


async def taken(client: httpx2.AsyncClient, count: int = 1, **fields: Any) -> list[str]:
    return [(await take(client, **fields)).json()["id"] for _ in range(count)]


async def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# Queues


async def test_a_queue_is_set_looked_at_and_handed_back(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    assert (await client.get("/queue/queues")).json() == {"queues": []}
    assert await code(await client.get("/queue/queues/labels")) == (404, "not_found")
    daemon.deps.bells.flusher.event.clear()
    changed = await client.patch("/queue/queues/labels", json={"linger_s": 3, "attempts_max": 1})
    assert changed.status_code == 200
    assert daemon.deps.bells.flusher.event.is_set()
    queue = changed.json()
    assert {name: value for name, value in queue["settings"].items() if value is not None} == {
        "linger_s": 3.0,
        "attempts_max": 1,
    }
    assert (queue["effective"]["linger_s"], queue["effective"]["priority"]) == (3.0, 0)
    assert queue["effective"]["deliver_to"] == "pull:labels"
    assert (await client.get("/queue/queues/labels")).json() == queue
    await taken(client, 2, queue="labels")
    [shown] = (await client.get("/queue/queues")).json()["queues"]
    assert shown["requests"] == {"queued": 2}
    back = await client.patch("/queue/queues/labels", json={"linger_s": None})
    assert (back.json()["settings"]["linger_s"], back.json()["effective"]["linger_s"]) == (None, 300.0)
    events = (await client.get("/queue/events?entity=labels")).json()["events"]
    assert [event["detail"] for event in events] == [
        "linger_s default → 3.0, attempts_max default → 1",
        "linger_s 3.0 → default",
    ]
    assert events[0]["actor"].startswith("uid:")


def test_the_shapes_of_a_queue_have_every_setting() -> None:
    assert tuple(queues.QueueSettings.__struct_fields__) == SETTINGS
    assert tuple(queues.SettingsBody.model_fields) == SETTINGS


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"linger": 3}, "linger"),
        ({"batch_requests_max": 100_001}, "batch_requests_max"),
        ({"batch_requests_max": 0}, "batch_requests_max"),
        ({"priority": "high"}, "priority"),
        ({"deliver_to": "webhook:nobody"}, "deliver_to"),
        ({"anthropic_version": "latest"}, "anthropic_version"),
        ({"retention_days": -1}, "retention_days"),
    ],
)
async def test_what_a_queue_cannot_be_is_refused_and_named(
    daemon: Daemon, client: httpx2.AsyncClient, body: dict[str, Any], field: str
) -> None:
    answer = await client.patch("/queue/queues/labels", json=body)
    assert await code(answer) == (422, "invalid_request")
    assert answer.json()["field"] == field
    assert (await client.get("/queue/queues")).json() == {"queues": []}
    assert (await client.patch("/queue/queues/la%20bels", json={})).status_code == 422


async def test_requests_get_the_defaults_of_their_queue_from_the_change_on(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    """Alone and in bulk; what a request says itself holds."""
    await taken(client, queue="labels")
    settings = {
        "deadline_s": 60, "attempts_max": 7, "priority": -2, "deliver_to": "pull:all",
        "anthropic_version": "2023-06-01", "anthropic_beta": "x",
    }  # fmt: skip
    await client.patch("/queue/queues/labels", json=settings)
    ids = await taken(client, queue="labels", params=PARAMS | {"temperature": 0.5})
    lines = b"\n".join([envelope(queue="labels"), envelope(queue="labels", priority=5), envelope(queue="other")])
    answer = await client.post("/queue/requests", content=lines, headers={"content-type": "application/x-ndjson"})
    ids += [json.loads(line)["id"] for line in answer.text.splitlines()[:3]]
    shown = [(await client.get(f"/queue/requests/{id}")).json() for id in ids]
    assert [one["priority"] for one in shown] == [-2, -2, 5, 0]
    assert [one["attempts_max"] for one in shown] == [7, 7, 7, 3]
    assert [one["deliver_to"] for one in shown] == ["pull:all", "pull:all", "pull:all", "pull:other"]
    [first, *_] = shown
    assert after(daemon.clock.now(), 61) > daemon.clock.now()
    assert first["deadline_at"] < (await client.get(f"/queue/requests/{ids[3]}")).json()["deadline_at"]
    versions = await daemon.store._read(
        lambda db: db.execute("select anthropic_version, anthropic_beta from groups order by id").fetchall()
    )
    assert ("2023-06-01", "x") in versions


async def test_a_full_queue_refuses_and_names_itself_and_others_go_on(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    await client.patch("/queue/queues/labels", json={"open_requests_max": 2})
    ids = await taken(client, 2, queue="labels")
    refused = await take(client, queue="labels")
    assert await code(refused) == (429, "queue_full")
    assert refused.json()["queue"] == "labels" and "queue labels" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) > 0
    assert (await take(client, queue="other")).status_code == 201
    await client.post(f"/queue/requests/{ids[0]}/cancel")
    assert (await take(client, queue="labels")).status_code == 201
    await client.patch("/queue/queues/labels", json={"open_requests_max": None})
    assert (await take(client, queue="labels")).status_code == 201


async def test_a_bulk_upload_stores_what_fits_and_says_where_to_go_on(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    await client.patch("/queue/queues/labels", json={"open_requests_max": 3})
    lines = [envelope(queue="other"), b"", *[envelope(queue="labels") for _ in range(5)]]
    answer = await client.post(
        "/queue/requests", content=b"\n".join(lines), headers={"content-type": "application/x-ndjson"}
    )
    assert await code(answer) == (429, "queue_full")
    assert answer.json()["lines_committed"] == 5
    assert answer.json()["summary"] == {"accepted": 4, "duplicates": 0, "refused": 0}
    assert await daemon.count() == 4


async def test_a_paused_queue_accepts_and_forms_nothing(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    misspelt = await client.post("/queue/queues/lables/pause", json={})
    assert await code(misspelt) == (404, "not_found")
    assert misspelt.json()["detail"] == "there is no queue 'lables' (there are none yet)"
    await client.patch("/queue/queues/labels", json={"linger_s": 30})  # a setting makes one
    paused = await client.post("/queue/queues/labels/pause", json={"reason": "the prompt is wrong"})
    assert (paused.json()["paused"], paused.json()["pause_reason"]) == (True, "the prompt is wrong")
    misspelt = await client.post("/queue/queues/lables/pause", json={})
    assert misspelt.json()["detail"] == "there is no queue 'lables' (there are: labels)"
    assert (await take(client, queue="labels")).status_code == 201
    assert list(await daemon.store.groups()) == []
    assert (await client.post("/queue/queues/labels/resume")).json() == {"resumed": True}
    assert (await client.post("/queue/queues/labels/resume")).json() == {"resumed": False}
    assert await code(await client.post("/queue/queues/nowhere/resume")) == (404, "not_found")
    assert len(await daemon.store.groups()) == 1


# Draining


async def test_a_drained_daemon_accepts_nothing_until_it_is_told_to(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    [id] = await taken(client)
    told = (await client.post("/queue/drain", json={})).json()
    assert (told["draining"], told["empty"], told["queued"]) == (True, False, 1)
    refused = await take(client)
    assert await code(refused) == (503, "draining")
    assert int(refused.headers["retry-after"]) > 0
    bulk = await client.post("/queue/requests", content=envelope(), headers={"content-type": "application/x-ndjson"})
    assert bulk.status_code == 503
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/healthz")).status_code == 200
    stop = await client.post("/queue/drain", json={"stop": True})
    assert await code(stop) == (409, "not_drained")
    assert "1 queued" in stop.json()["detail"] and not daemon.stopped.is_set()
    await client.post(f"/queue/requests/{id}/cancel")
    told = (await client.get("/queue/drain")).json()
    assert (told["empty"], told["to_pull"], told["held_by"]) == (True, 1, [])
    assert (await client.post("/queue/drain", json={"stop": True})).json()["stopping"] is True
    assert daemon.stopped.is_set()
    assert (await client.post("/queue/undrain")).json() == {"was_draining": True}
    assert (await client.post("/queue/undrain")).json() == {"was_draining": False}
    assert (await take(client)).status_code == 201
    events = (await client.get("/queue/events?entity=daemon")).json()["events"]
    assert [event["what"] for event in events] == ["daemon.draining", "daemon.accepting"]


async def test_what_holds_a_drain_up_is_told(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    await taken(client, queue="labels")
    await client.post("/queue/queues/labels/pause", json={"reason": "the prompt is wrong"})
    await daemon.store.pause_account("401: the key", None, "test", daemon.clock.now())
    told = (await client.post("/queue/drain", json={})).json()
    assert told["held_by"] == [
        "the account is paused until `unhurried resume`: 401: the key",
        "queue labels is paused: the prompt is wrong",
    ]


# Retries


async def test_one_request_is_sent_again(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    [id] = await taken(client)
    early = await client.post(f"/queue/requests/{id}/retry", json={})
    assert await code(early) == (409, "cannot_retry")
    await daemon.finish([id], INVALID)
    again = await client.post(f"/queue/requests/{id}/retry", json={"max_wait": 60})
    assert again.status_code == 200
    assert (again.json()["state"], again.json()["generation"], "result" in again.json()) == ("queued", 2, False)
    await daemon.finish([id])
    shown = (await client.get(f"/queue/requests/{id}")).json()
    assert (shown["state"], shown["result"]["type"]) == ("succeeded", "succeeded")
    assert await code(await client.post(f"/queue/requests/{id}/retry", json={})) == (409, "cannot_retry")
    assert await code(await client.post(f"/queue/requests/{'x' * 36}/retry", json={})) == (404, "not_found")
    daemon.draining.set()
    assert await code(await client.post(f"/queue/requests/{id}/retry", json={})) == (503, "draining")


async def test_many_are_counted_first_and_sent_again_when_it_is_said(
    daemon: Daemon, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unhurried.store.sqlite.retrying.WINDOW_ROWS", 4)
    monkeypatch.setattr("unhurried.ingest.api.again.PAGES_A_CALL", 2)
    bad = await taken(client, 10, queue="labels")
    await daemon.finish(bad, INVALID)
    dry = (await client.post("/queue/requests/retry", json={"queue": "labels"})).json()
    assert (dry["dry_run"], dry["found"], dry["retried"]) == (True, 8, 0)
    assert dry["groups"] == [
        {
            "queue": "labels",
            "model": PARAMS["model"],
            "state": "errored",
            "error_type": "invalid_request_error",
            "requests": 8,
        }
    ]
    rest = (await client.post("/queue/requests/retry", json={"queue": "labels", "cursor": dry["cursor"]})).json()
    assert (rest["found"], rest["cursor"]) == (2, None)
    assert (await client.get("/queue/requests?state=queued")).json()["requests"] == []
    first = (await client.post("/queue/requests/retry", json={"queue": "labels", "dry_run": False})).json()
    assert first["retried"] == 8
    # Cut short here, and begun anew: it goes on with the rest.
    cursor, retried = None, 0
    for _ in range(5):
        told = (
            await client.post("/queue/requests/retry", json={"queue": "labels", "dry_run": False, "cursor": cursor})
        ).json()
        cursor, retried = told["cursor"], retried + told["retried"]
        if cursor is None:
            break
    assert retried == 2
    assert len((await client.get("/queue/requests?state=queued")).json()["requests"]) == 10


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"since": "yesterday"}, "since"),
        ({"states": ["succeeded"]}, "states.0"),
        ({"states": []}, "states"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_filter_that_makes_no_sense_is_refused(
    client: httpx2.AsyncClient, body: dict[str, Any], field: str
) -> None:
    answer = await client.post("/queue/requests/retry", json=body)
    assert await code(answer) == (422, "invalid_request")
    assert answer.json()["field"] == field


# Erasing


async def test_a_request_is_erased_and_says_so(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    [id] = await taken(client, custom_id="row-1", metadata={"a": 1}, idempotency_key="k")
    other = await taken(client)
    await daemon.finish([id])
    told = (await client.post(f"/queue/requests/{id}/erase")).json()
    assert told["request"]["erased_at"] is not None
    assert (told["request"]["custom_id"], told["request"]["metadata"]) == (None, None)
    shown = (await client.get(f"/queue/requests/{id}")).json()
    assert (shown["state"], shown["result"], shown["delivery"]) == ("succeeded", {"type": "erased"}, "canceled")
    looked = (await client.post("/queue/results/lookup", json={"ids": [id]})).json()
    assert looked["results"][0]["result"] == {"type": "erased"}
    on_its_way = await client.post(f"/queue/requests/{other[0]}/erase")
    assert await code(on_its_way) == (409, "cannot_erase")
    assert "cancel it" in on_its_way.json()["detail"]
    assert await code(await client.post(f"/queue/requests/{'x' * 36}/erase")) == (404, "not_found")


async def test_changes_at_the_same_time_all_hold(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    await asyncio.gather(
        *(client.patch(f"/queue/queues/q{n}", json={"priority": n % 9, "open_requests_max": n}) for n in range(20))
    )
    ids = [(await take(client, queue=f"q{n}")).json().get("id") for n in range(20)]
    assert ids[0] is None and None not in ids[1:]
    shown = [(await client.get(f"/queue/requests/{id}")).json()["priority"] for id in ids[1:]]
    assert shown == [n % 9 for n in range(1, 20)]


async def test_a_check_under_way_keeps_the_defaults_it_began_with(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    """Large envelopes are checked in threads: a queue must not lose its settings while those of another change."""
    await client.patch("/queue/queues/one", json={"priority": 3})
    seen = daemon.deps.queues.defaults
    before = dict(seen)
    await client.patch("/queue/queues/two", json={"priority": 4})
    assert seen == before and seen.keys() == {"one"}
    assert daemon.deps.queues.defaults.keys() == {"one", "two"}
