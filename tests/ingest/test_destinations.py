"""The routes about destinations and deliveries."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.ingest.daemon import Daemon, envelope, running
from unhurried.domain.delivering import Delivered, Gone, Misconfigured, Outcome, SecretRef, Target, TryAgain
from unhurried.ingest import build_app
from unhurried.store.records import Claimed

URL = "https://app.example.com:8443/hooks/a-secret-path?x=1"
JSON = {"content-type": "application/json"}


async def put(client: httpx2.AsyncClient, name: str = "webhook:app", **fields: Any) -> httpx2.Response:
    return await client.put(f"/queue/destinations/{name}", json={"url": URL, "secrets": ["env:APP"], **fields})


async def result(daemon: Daemon, client: httpx2.AsyncClient, to: str = "webhook:app", **fields: Any) -> str:
    """A result that waits there; its delivery id."""
    answer = await client.post("/queue/requests", content=envelope(deliver_to=to, **fields), headers=JSON)
    assert answer.status_code == 201, answer.text
    id: str = answer.json()["id"]
    await daemon.finish([id])
    return f"{id}.1"


async def attempt(daemon: Daemon, outcome: Outcome, name: str = "webhook:app") -> Claimed:
    """As the dispatcher would."""
    found = await daemon.store.destination(name)
    assert found is not None
    now = daemon.clock.now()
    [claimed] = await daemon.store.claim({found.id: 1}, 60, now)
    await daemon.store.record_outcome(claimed, outcome, next_lease_s=None, jitter=0.5, disable_after_s=9**9, now=now)
    return claimed


async def test_a_webhook_is_added_and_requests_may_name_it_from_then_on(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    before = await client.post("/queue/requests", content=envelope(deliver_to="webhook:app"), headers=JSON)
    assert (before.status_code, before.json()["field"]) == (422, "deliver_to")
    assert "unhurried destinations add" in before.json()["detail"]
    added = await put(client, concurrency=3)
    assert added.status_code == 201
    assert added.json() == {
        "name": "webhook:app", "kind": "webhook", "state": "ok", "origin": "https://app.example.com:8443", "url": URL,
        "secrets": ["env:APP"], "concurrency": 3, "created_at": added.json()["created_at"], "deliveries": {},
        "next_due_at": None, "failures": 0, "failing_since": None, "open_until": None, "paused_at": None,
        "pause_reason": None,
    }  # fmt: skip
    assert daemon.deps.bells.dispatcher.event.is_set()
    after = await client.post("/queue/requests", content=envelope(deliver_to="webhook:app"), headers=JSON)
    assert after.status_code == 201
    changed = await put(client, secrets=["file:/run/secrets/app", "env:APP"])
    assert (changed.status_code, changed.json()["secrets"]) == (200, ["file:/run/secrets/app", "env:APP"])
    assert changed.json()["concurrency"] is None


@pytest.mark.parametrize(
    ("name", "body", "field"),
    [
        ("pull:app", {}, "name"),
        ("app", {}, "name"),
        ("webhook:", {}, "name"),
        ("webhook:-x", {}, "name"),
        ("webhook:app", {"url": "https://user:pass@app.example.com/"}, "url"),
        ("webhook:app", {"url": "ftp://app.example.com/"}, "url"),
        ("webhook:app", {"url": "https://127.1/"}, "url"),
        ("webhook:app", {"url": "https://app.example.com/#part"}, "url"),
        ("webhook:app", {"secrets": []}, "secrets"),
        ("webhook:app", {"secrets": ["env:A", "env:A"]}, "secrets"),
        ("webhook:app", {"secrets": ["env:UNHURRIED_KEY"]}, "secrets"),
        ("webhook:app", {"secrets": ["whsec_bm8gc2VjcmV0IG9mIG1pbmU="]}, "secrets"),
        ("webhook:app", {"concurrency": 0}, "concurrency"),
        ("webhook:app", {"concurrency": 101}, "concurrency"),
        ("webhook:app", {"colour": "red"}, "colour"),
    ],
)
async def test_what_cannot_be_a_webhook_is_refused_by_its_field(
    client: httpx2.AsyncClient, name: str, body: dict[str, Any], field: str
) -> None:
    answer = await put(client, name, **body)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "invalid_request", field)
    assert "bm8gc2" not in answer.text and "user:pass" not in answer.text
    assert (await client.get("/queue/destinations")).json() == {"destinations": [], "cursor": None}


async def test_a_socket_of_an_application_needs_no_secret(client: httpx2.AsyncClient) -> None:
    answer = await put(client, url="http+unix://%2Frun%2Fapp%2Fapp.sock/hook", secrets=[])
    assert (answer.status_code, answer.json()["origin"]) == (201, "http+unix:/run/app/app.sock")


async def test_a_put_that_is_no_json_or_too_large_is_a_problem(client: httpx2.AsyncClient) -> None:
    path = "/queue/destinations/webhook:app"
    assert (await client.put(path, content=b"{}")).json()["code"] == "unsupported_media_type"
    assert (await client.put(path, content=b"{", headers=JSON)).json()["code"] == "invalid_json"
    assert (await client.put(path, content=b" " * 1_100_000, headers=JSON)).json()["code"] == "request_too_large"


async def test_a_list_shows_where_and_how_it_goes_but_no_path_of_a_url(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    await put(client)
    await put(client, "webhook:other")
    await result(daemon, client, "pull:mine")
    await result(daemon, client)
    listed = await client.get("/queue/destinations")
    assert "a-secret-path" not in listed.text
    shown = {one["name"]: one for one in listed.json()["destinations"]}
    assert list(shown) == ["pull:mine", "webhook:app", "webhook:other"]
    assert shown["webhook:app"]["deliveries"] == {"pending": 1}
    assert "url" not in shown["webhook:app"] and "secrets" not in shown["webhook:app"]
    single = (await client.get("/queue/destinations/webhook:app")).json()
    assert single["url"] == URL
    assert (await client.get("/queue/destinations/webhook%3Aapp")).json() == single
    pull = (await client.get("/queue/destinations/pull:mine")).json()
    assert (pull["kind"], pull["origin"], pull["url"], pull["secrets"]) == ("pull", None, None, [])
    page = (await client.get("/queue/destinations?limit=1")).json()
    assert [one["name"] for one in page["destinations"]] == [page["cursor"]] == ["pull:mine"]
    rest = (await client.get(f"/queue/destinations?after={page['cursor']}")).json()
    assert [one["name"] for one in rest["destinations"]] == ["webhook:app", "webhook:other"]


@pytest.mark.parametrize(("kind", "names"), [("webhook", ["webhook:app"]), ("pull", ["pull:a", "pull:b"])])
async def test_a_list_of_one_kind_has_its_pages_too(
    daemon: Daemon, client: httpx2.AsyncClient, kind: str, names: list[str]
) -> None:
    await put(client)
    await result(daemon, client, "pull:a")
    await result(daemon, client, "pull:b")
    found: list[str] = []
    after = ""
    while True:
        page = (await client.get(f"/queue/destinations?kind={kind}&limit=1&after={after}")).json()
        found += [one["name"] for one in page["destinations"]]
        if (after := page["cursor"]) is None:
            break
    assert found == names


async def test_what_is_not_there_is_not_found(client: httpx2.AsyncClient) -> None:
    id = "01a202f3-595f-72d5-911c-a017d33fef52.1"
    for method, path, body in (
        ("GET", "destinations/webhook:nobody", None),
        ("POST", "destinations/webhook:nobody/pause", {}),
        ("POST", "destinations/webhook:nobody/resume", None),
        ("POST", "destinations/webhook:nobody/test", None),
        ("GET", f"deliveries/{id}", None),
        ("POST", f"deliveries/{id}/redeliver", None),
        ("POST", "deliveries/redeliver", {"destination": "webhook:nobody"}),
        ("GET", "deliveries?destination=webhook:nobody", None),
    ):
        answer = await client.request(method, f"/queue/{path}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path


async def test_a_pause_is_told_with_its_reason_and_ended(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    await put(client)
    path = "/queue/destinations/webhook:app"
    assert (await client.post(f"{path}/pause", json={"reason": "we move"})).json() == {"paused": True}
    assert (await client.post(f"{path}/pause", json={})).json() == {"paused": False}
    shown = (await client.get(path)).json()
    assert (shown["state"], shown["pause_reason"]) == ("paused", "we move")
    daemon.deps.bells.dispatcher.event.clear()
    assert (await client.post(f"{path}/resume")).json() == {"resumed": True}
    assert daemon.deps.bells.dispatcher.event.is_set()
    assert (await client.post(f"{path}/resume")).json() == {"resumed": False}
    assert (await client.get(path)).json()["state"] == "ok"
    events = (await client.get("/queue/events?entity=webhook:app")).json()["events"]
    assert [event["what"] for event in events] == ["destination.added", "destination.paused", "destination.resumed"]


@pytest.mark.parametrize("act", ["pause", "resume", "test"])
async def test_a_destination_that_is_pulled_from_can_neither_be_paused_nor_tested(
    daemon: Daemon, client: httpx2.AsyncClient, act: str
) -> None:
    await result(daemon, client, "pull:mine")
    answer = await client.post(f"/queue/destinations/pull:mine/{act}", json={} if act == "pause" else None)
    assert (answer.status_code, answer.json()["field"]) == (422, "name")


async def test_trouble_shows_in_the_state_of_a_destination(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    await put(client)
    for _ in range(6):
        await result(daemon, client)
    await attempt(daemon, TryAgain(detail="the receiver answered 500", status=500))
    shown = (await client.get("/queue/destinations/webhook:app")).json()
    assert (shown["state"], shown["failures"], shown["open_until"]) == ("failing", 1, None)
    for _ in range(4):
        await attempt(daemon, TryAgain(detail="the receiver answered 500", status=500))
    shown = (await client.get("/queue/destinations/webhook:app")).json()
    assert (shown["state"], shown["failures"]) == ("breaker_open", 5)
    assert shown["open_until"] is not None and shown["failing_since"] is not None
    daemon.clock.ahead_s = 31
    await attempt(daemon, Gone(detail="the receiver answered 410 Gone"))
    assert (await client.get("/queue/destinations/webhook:app")).json()["state"] == "paused"


@pytest.mark.parametrize(
    ("outcome", "shown", "advice"),
    [
        (Delivered(status=204), {"outcome": "delivered", "status": 204, "detail": None}, None),
        (TryAgain(detail="d", status=401), {"outcome": "failed", "status": 401, "detail": "d"}, "secret"),
        (TryAgain(detail="d", status=302), {"outcome": "failed", "status": 302, "detail": "d"}, "redirects"),
        (TryAgain(detail="d", status=500), {"outcome": "failed", "status": 500, "detail": "d"}, "log"),
        (TryAgain(detail="d"), {"outcome": "failed", "status": None, "detail": "d"}, "running"),
        (Gone(detail="d"), {"outcome": "gone", "status": 410, "detail": "d"}, "correct the URL"),
        (Misconfigured(detail="d"), {"outcome": "misconfigured", "status": None, "detail": "d"}, "nothing was sent"),
    ],
)
async def test_a_test_is_sent_beside_the_queue_and_says_what_to_do(
    daemon: Daemon, client: httpx2.AsyncClient, outcome: Outcome, shown: dict[str, Any], advice: str | None
) -> None:
    asked: list[tuple[Target, Sequence[SecretRef]]] = []

    async def send(target: Target, secrets: Sequence[SecretRef]) -> Outcome:
        asked.append((target, secrets))
        return outcome

    await put(client)
    await result(daemon, client)
    app = build_app(replace(daemon.deps, test_webhook=send))
    transport = httpx2.ASGITransport(app=app)  # type: ignore[arg-type]  # its scope is a plain dict
    async with httpx2.AsyncClient(transport=transport, base_url="http://unhurried") as direct:
        answer = await direct.post("/queue/destinations/webhook:app/test")
    told = answer.json()
    assert {name: told[name] for name in shown} == shown
    assert isinstance(told["ms"], int)
    assert told["advice"] is None if advice is None else advice in told["advice"]
    [(target, secrets)] = asked
    assert (target.url, list(map(str, secrets))) == (URL, ["env:APP"])
    assert (await client.get("/queue/destinations/webhook:app")).json()["deliveries"] == {"pending": 1}


async def test_deliveries_are_listed_and_shown(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    await put(client)
    first = await result(daemon, client, custom_id="row-1")
    second = await result(daemon, client, queue="reports")
    await attempt(daemon, TryAgain(detail="the receiver answered 500", status=500))
    listed = (await client.get("/queue/deliveries?destination=webhook:app")).json()
    assert [one["id"] for one in listed["deliveries"]] == [second, first]
    assert listed["cursor"] is None
    shown = (await client.get(f"/queue/deliveries/{first}")).json()
    assert shown == listed["deliveries"][1]
    assert shown["due_at"] > shown["last_failed_at"]
    assert {name: shown[name] for name in ("destination", "state", "custom_id", "attempts", "last_status")} == {
        "destination": "webhook:app", "state": "pending", "custom_id": "row-1", "attempts": 1, "last_status": 500,
    }  # fmt: skip
    page = (await client.get("/queue/deliveries?limit=1")).json()
    assert [one["id"] for one in page["deliveries"]] == [second]
    page = (await client.get(f"/queue/deliveries?limit=1&cursor={page['cursor']}")).json()
    assert [one["id"] for one in page["deliveries"]] == [first]
    assert (await client.get("/queue/deliveries?state=dead&state=delivered")).json()["deliveries"] == []
    assert len((await client.get("/queue/deliveries?state=dead&state=pending")).json()["deliveries"]) == 2
    assert (await client.get("/queue/deliveries?since=2036-01-01T00:00:00Z")).json()["deliveries"] == []
    wrong = await client.get("/queue/deliveries?since=yesterday")
    assert (wrong.status_code, wrong.json()["field"]) == (422, "since")


async def test_a_delivery_is_made_again(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    await put(client)
    id = await result(daemon, client)
    await attempt(daemon, Delivered(status=200))
    daemon.deps.bells.dispatcher.event.clear()
    made = await client.post(f"/queue/deliveries/{id}/redeliver")
    assert (made.status_code, made.json()["id"], made.json()["state"]) == (202, id[:-1] + "2", "pending")
    assert daemon.deps.bells.dispatcher.event.is_set()
    again = await client.post(f"/queue/deliveries/{id}/redeliver")
    assert (again.status_code, again.json()["code"], again.json()["id"]) == (409, "not_redeliverable", id)
    assert f"{id[:-1]}2 took its place" in again.json()["detail"]
    assert (await client.get(f"/queue/deliveries/{id}")).json()["due_at"] is None


async def test_many_are_only_counted_until_it_is_meant(daemon: Daemon, client: httpx2.AsyncClient) -> None:
    await put(client)
    for _ in range(3):
        await result(daemon, client)
    await attempt(daemon, Delivered(status=200))
    path = "/queue/deliveries/redeliver"
    assert (await client.post(path, json={"destination": "webhook:app"})).json() == {"deliveries": 0, "dry_run": True}
    named = {"destination": "webhook:app", "states": ["delivered", "pending"]}
    assert (await client.post(path, json=named)).json() == {"deliveries": 3, "dry_run": True}
    assert (await client.post(path, json={**named, "since": "2036-01-01T00:00:00Z"})).json()["deliveries"] == 0
    done = await client.post(path, json={**named, "dry_run": False})
    assert done.json() == {"deliveries": 3, "dry_run": False}
    shown = (await client.get("/queue/destinations/webhook:app")).json()
    assert shown["deliveries"] == {"delivered": 1, "canceled": 2, "pending": 3}
    for wrong, field in (
        ({"destination": "webhook:app", "states": ["sending"]}, "states"),
        ({"destination": "webhook:app", "states": []}, "states"),
        ({}, "destination"),
        ({"destination": "webhook:app", "since": "x"}, "since"),
    ):
        refused = await client.post(path, json=wrong)
        assert (refused.status_code, refused.json()["field"]) == (422, field)


async def test_what_is_made_again_for_a_caller_that_pulls_wakes_it(tmp_path: Path) -> None:
    import asyncio

    async with running(tmp_path, interval_s=3_600) as daemon, daemon.client() as client:
        id = await result(daemon, client, "pull:mine")
        await client.post("/queue/results/ack", json={"delivery_ids": [id]})
        pulling = asyncio.create_task(client.get("/queue/results?destination=pull:mine&wait=30"))
        while not daemon.deps.waiters._lines:  # noqa: ASYNC110  # a glimpse into the room
            await asyncio.sleep(0.002)
        await client.post(f"/queue/deliveries/{id}/redeliver")
        [again] = (await pulling).json()["results"]
        assert again["delivery_id"] == id[:-1] + "2"


async def test_a_url_that_somebody_broke_in_the_database_can_still_be_looked_at(
    daemon: Daemon, client: httpx2.AsyncClient
) -> None:
    await put(client)
    await daemon.store._write(lambda tx: tx.db.execute("update destinations set url = 'gopher://x'"))
    [shown] = (await client.get("/queue/destinations")).json()["destinations"]
    assert shown["origin"] == "(a URL that cannot be used)"
    told = (await client.post("/queue/destinations/webhook:app/test")).json()
    assert told["outcome"] == "misconfigured" and "https://" in told["detail"]
