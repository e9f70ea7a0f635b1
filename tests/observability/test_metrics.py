"""``/metrics``: both formats can be read, the store's numbers survive a restart, and the others follow what happens."""

import json
from pathlib import Path

import pytest

from tests.ingest.daemon import Daemon, envelope, running
from tests.observability.scraping import OPENMETRICS, scrape
from unhurried.observability.metrics.families import NAMES_MAX, OTHERS, folded, gauge
from unhurried.store.records import StoredResults

JSON = {"content-type": "application/json"}
NDJSON = {"content-type": "application/x-ndjson"}


async def take(daemon: Daemon, *bodies: bytes) -> list[str]:
    """Hand these in, one call each; the ids of those that were accepted."""
    async with daemon.client() as client:
        answers = [await client.post("/queue/requests", content=body, headers=JSON) for body in bodies]
    return [answer.json()["id"] for answer in answers if answer.is_success]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; version=0.0.4"),
        ("text/html", "text/plain; version=0.0.4"),
        (OPENMETRICS + ",text/plain;q=0.5", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1", "application/openmetrics-text; version=1.0.0"),
    ],
)
async def test_the_format_is_the_one_that_was_asked_for(daemon: Daemon, accept: str, kind: str) -> None:
    seen = await scrape(daemon, accept)
    assert seen.media_type.startswith(kind)
    assert seen.value("unhurried_build_info", simulator="true") == 1
    assert seen.value("process_resident_memory_bytes") > 1_000_000


async def test_both_formats_tell_the_same(daemon: Daemon) -> None:
    await take(daemon, envelope(queue="a"))
    plain, modern = (await scrape(daemon)).sizes(), (await scrape(daemon, OPENMETRICS)).sizes()
    assert plain.keys() == modern.keys()
    assert plain["unhurried_requests[('queue', 'a'), ('state', 'queued')]"] == 1


async def test_requests_are_followed_from_accept_to_delivery(daemon: Daemon) -> None:
    ids = await take(daemon, envelope(queue="a"), envelope(queue="a"))
    daemon.clock.ahead_s = 90
    waiting = await scrape(daemon)
    assert waiting.value("unhurried_requests", queue="a", state="queued") == 2
    assert 90 <= waiting.value("unhurried_queue_oldest_queued_age_seconds", queue="a") < 120
    assert waiting.value("unhurried_queue_oldest_open_age_seconds", queue="a") >= 90
    assert waiting.value("unhurried_queue_waiting_bytes", queue="a") > 0
    await daemon.finish(ids[:1])
    sent = await scrape(daemon)
    assert sent.value("unhurried_requests", queue="a", state="succeeded") == 1
    assert sent.value("unhurried_requests", queue="a", state="submitted") == 1
    assert sent.value("unhurried_queue_oldest_queued_age_seconds", queue="a") == 0
    assert sent.value("unhurried_queue_oldest_open_age_seconds", queue="a") >= 90
    assert sent.value("unhurried_batches", state="ended") == 1
    assert sent.value("unhurried_deliveries", destination="pull:a", state="pending") == 1


async def test_an_application_that_pulls_and_never_confirms_is_seen_by_the_age_of_its_results(daemon: Daemon) -> None:
    await daemon.finish(await take(daemon, envelope(queue="a")))
    async with daemon.client() as client:
        pulled = (await client.get("/queue/results?queue=a&lease=3600")).json()["results"]
        daemon.clock.ahead_s = 600
        held = await scrape(daemon)
        assert held.value("unhurried_deliveries", destination="pull:a", state="sending") == 1
        assert held.value("unhurried_delivery_oldest_age_seconds", destination="pull:a") >= 600
        await client.post("/queue/results/ack", json={"delivery_ids": [pulled[0]["delivery_id"]]})
    confirmed = await scrape(daemon)
    assert confirmed.value("unhurried_delivery_oldest_age_seconds", destination="pull:a") == 0
    assert confirmed.value("unhurried_deliveries_confirmed_total") == 1


async def test_accepts_and_refusals_are_counted_by_outcome_and_code(daemon: Daemon) -> None:
    key = {"idempotency_key": "k"}
    other = json.dumps({"params": {"model": "m", "max_tokens": 1, "messages": [{}]}, **key}).encode()
    await take(daemon, envelope(**key), envelope(**key), other, b"no json", envelope(colour="red"))
    lines = envelope() + b"\n" + envelope(queue="no such name!") + b"\n"
    async with daemon.client() as client:
        await client.post("/queue/requests", content=lines, headers=NDJSON)
        await client.get("/nowhere")
    seen = await scrape(daemon)
    assert seen.value("unhurried_accepts_total", outcome="accepted") == 2
    assert seen.value("unhurried_accepts_total", outcome="duplicate") == 1
    assert seen.value("unhurried_accepts_total", outcome="conflict") == 1
    assert seen.value("unhurried_refusals_total", code="invalid_json") == 1
    assert seen.value("unhurried_refusals_total", code="invalid_request") == 2
    assert seen.value("unhurried_refusals_total", code="not_found") == 1


async def test_commits_are_timed_and_what_shared_them_is_counted(daemon: Daemon) -> None:
    before = await scrape(daemon)
    await take(daemon, envelope(), envelope())
    after = await scrape(daemon)
    assert after.value("unhurried_commit_seconds_count") > before.value("unhurried_commit_seconds_count")
    assert after.value("unhurried_commit_seconds_sum") > before.value("unhurried_commit_seconds_sum")
    assert after.value("unhurried_commit_writes_sum") > before.value("unhurried_commit_writes_sum")
    assert after.value("unhurried_writer_queue_writes") == 0


async def test_what_the_store_knows_is_there_again_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as daemon:
        await daemon.finish(await take(daemon, envelope(queue="a"), envelope(queue="a")))
        before = (await scrape(daemon)).sizes()
    async with running(tmp_path) as daemon:
        after = (await scrape(daemon)).sizes()
    for name, labels in (("requests", "queue"), ("deliveries", "destination"), ("batches", "state")):
        kept = {key: number for key, number in before.items() if key.startswith(f"unhurried_{name}[('{labels}'")}
        assert kept
        assert kept == {key: after[key] for key in kept}
    assert after["unhurried_accepts_total[('outcome', 'accepted')]"] == 0


async def test_results_are_counted_with_the_tokens_of_their_model(daemon: Daemon) -> None:
    daemon.meters.results_stored(
        "m", StoredResults(again=1, skipped=2, waste=3, states={"succeeded": 4}, tokens=(5, 6, 7, 8, 9))
    )
    seen = await scrape(daemon)
    assert seen.value("unhurried_result_lines_total", outcome="succeeded") == 4
    assert seen.value("unhurried_result_lines_total", outcome="errored") == 0
    assert seen.value("unhurried_result_lines_total", outcome="repeated") == 2
    assert seen.value("unhurried_requeued_total") == 1
    assert seen.value("unhurried_wasted_results_total") == 3
    kinds = ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read")
    assert [seen.value("unhurried_tokens_total", model="m", kind=kind) for kind in kinds] == [5, 6, 7, 8, 9]


async def test_a_webhook_in_trouble_shows(daemon: Daemon) -> None:
    now = daemon.clock.now()
    await daemon.store.put_webhook("hook", "https://example.com/", (), None, "test", now)
    await daemon.store.pause_destination("hook", "broken", "test", now)
    seen = await scrape(daemon)
    assert seen.value("unhurried_destination_paused", destination="hook") == 1
    assert seen.value("unhurried_destination_breaker_open", destination="hook") == 0


async def test_a_paused_account_shows(daemon: Daemon) -> None:
    assert (await scrape(daemon)).value("unhurried_account_paused") == 0
    await daemon.store.pause_account("wrong key", None, "test", daemon.clock.now())
    seen = await scrape(daemon)
    assert (seen.value("unhurried_account_paused"), seen.value("unhurried_account_refusals")) == (1, 1)


def test_names_that_callers_make_up_cannot_flood_the_monitoring() -> None:
    told = folded(f"q{n:04d}" for n in range(NAMES_MAX + 50))
    assert (told["q0000"], told[f"q{NAMES_MAX:04d}"]) == ("q0000", OTHERS)
    assert len(set(told.values())) == NAMES_MAX + 1
    counts = gauge("n", "", ("queue",), (((told[name],), 1.0) for name in told))
    oldest = gauge("n", "", ("queue",), (((told[name],), float(name[1:])) for name in told), max)
    assert {sample.labels["queue"]: sample.value for sample in counts.samples}[OTHERS] == 50
    assert {sample.labels["queue"]: sample.value for sample in oldest.samples}[OTHERS] == NAMES_MAX + 49
