"""Webhooks from end to end: a real daemon, real receivers, and what either of them may do at the worst moment."""

import json
import os
import random
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import httpx2
import pytest

from tests.whole.receivers import SECRET, Receiver, listening, ok
from tests.whole.stage import Stage
from unhurried.client import Client

OLD_SECRET = "whsec_" + "T0xE" * 11
APP, OTHER = "webhook:app", "webhook:other"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def office(scene: Stage) -> Iterator[Stage]:
    """A daemon that may send to this machine, and knows the receiver's secret."""
    scene.settings.update(
        {
            "UNHURRIED_DELIVERY__ALLOWED_NETWORKS": '["127.0.0.0/8"]',
            "UNHURRIED_DELIVERY__TIMEOUT_S": "2",
            "APP_SECRET": SECRET,
            "APP_OLD_SECRET": OLD_SECRET,
        }
    )
    scene.start()
    yield scene
    scene.assert_sound()
    wait_for_upstream(scene)


def wait_for_upstream(scene: Stage) -> None:
    """A stop waits for the SDK to be imported, which can take longer than anything that is tested here."""

    def is_there() -> bool:
        said = scene.tail(10_000)
        return said.rfind('"daemon.upstream"') > said.rfind('"daemon.ready"')

    scene.until(is_there, "upstream is there")


def add(client: Client, receiver: Receiver, name: str = APP, secrets: tuple[str, ...] = ("env:APP_SECRET",)) -> None:
    client.put_webhook(name, receiver.url, secrets=secrets)


def counts(client: Client, name: str = APP) -> dict[str, int]:
    found: dict[str, int] = client.destination(name)["deliveries"]
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_every_result_arrives_once_signed_and_as_it_is(office: Stage) -> None:
    with listening(Receiver()) as receiver, office.client() as client:
        add(client, receiver)
        ids = office.submit(200, deliver_to=APP, metadata={"page": 3})
        office.until(lambda: counts(client) == {"delivered": 200}, "all are delivered")
        assert receiver.ids() == {f"{id}.1": 1 for id in ids}
        assert not receiver.forged
        got = receiver.got[0]
        view = client.get(got.event["data"]["request_id"])
        data = got.event["data"]
        assert (got.event["type"], data["metadata"], data["state"]) == ("request.succeeded", {"page": 3}, "succeeded")
        assert data["result"] == view["result"]
        assert view["delivery"] == "delivered"
        assert client.delivery(data["delivery_id"])["confirmed_by"] == "webhook"
        assert client.status()["daemon"]["counts"]["delivered"] >= 200


def test_a_dead_receiver_delays_no_other_and_gets_everything_when_it_is_back(office: Stage) -> None:
    """By id each once: what was refused was never taken."""
    port = free_port()
    dead = Receiver(url=f"http://127.0.0.1:{port}/hook")
    with listening(Receiver()) as receiver, office.client() as client:
        add(client, dead)
        add(client, receiver, OTHER)
        waiting = office.submit(30, "dead", deliver_to=APP)
        office.submit(100, "alive", deliver_to=OTHER)
        office.until(lambda: counts(client, OTHER) == {"delivered": 100}, "the one that works has everything")
        office.until(lambda: client.destination(APP)["state"] == "breaker_open", "the breaker opens")
        burned = {one["id"] for one in client.deliveries(destination=APP, limit=100)[0] if one["attempts"]}
        assert 5 <= len(burned) <= 5 + 8
        with listening(dead, port=port):
            assert client.resume_destination(APP)
            office.until(lambda: counts(client) == {"delivered": 30}, "the other is back")
        assert dead.ids() == {f"{id}.1": 1 for id in waiting}


@pytest.mark.parametrize("answered", [False, True])
def test_a_kill_between_sending_and_recording_delivers_again_under_the_same_id(office: Stage, answered: bool) -> None:
    """Whether the receiver's answer was on its way or not."""
    with listening(Receiver()) as receiver:
        receiver.answer = receiver.hold
        with office.client() as client:
            add(client, receiver)
            ids = office.submit(3, deliver_to=APP)
            for _ in ids:
                assert receiver.held.acquire(timeout=60), "nothing was sent"
            if answered:
                receiver.gate.set()
            office.kill()
        receiver.answer = ok
        receiver.gate.set()
        office.start()
        with office.client() as client:
            office.until(lambda: counts(client) == {"delivered": 3}, "all are delivered")
        assert receiver.ids().keys() == {f"{id}.1" for id in ids}
        assert set(receiver.ids().values()) <= ({1, 2} if answered else {2})


def test_kills_at_random_moments_lose_nothing_and_keep_the_ids(office: Stage) -> None:
    """Before the claim, between claim and send, send and record, record and the next claim: the seed is printed."""
    seed = int(os.environ.get("UNHURRIED_TEST_SEED", str(random.randrange(10**6))))
    print(f"UNHURRIED_TEST_SEED={seed}")
    chance = random.Random(seed)

    def dawdling(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(chance.uniform(0, 0.01))  # a receiver that takes its time, not a test that waits
        ok(handler)

    kills = int(os.environ.get("UNHURRIED_TEST_RANDOM_KILLS", "2"))
    with listening(Receiver(answer=dawdling)) as receiver:
        with office.client() as client:
            add(client, receiver)
        ids = office.submit(600, deliver_to=APP)
        for kill in range(1, kills + 1):
            some = chance.randrange(kill * 100, kill * 150)
            office.until(lambda some=some: len(receiver.got) >= some, f"{some} have arrived")  # type: ignore[misc]
            office.kill()
            office.start()
        with office.client() as client:
            office.until(lambda: counts(client) == {"delivered": 600}, "all are delivered")
        assert receiver.ids().keys() == {f"{id}.1" for id in ids}
        twice = [id for id, times in receiver.ids().items() if times > 1]
        assert len(twice) <= kills * 8, "only what was under way is sent twice"


def test_receivers_that_are_slow_huge_or_redirect_cost_nothing_but_their_own_attempts(office: Stage) -> None:
    """A gigabyte is not read, and nothing that a receiver says leads anywhere."""
    elsewhere = Receiver()

    def huge(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(10**9))
        handler.end_headers()
        for _ in range(1_000):
            handler.wfile.write(b"x" * 10**6)

    def redirecting(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("location", elsewhere.url)
        handler.send_header("content-length", "0")
        handler.end_headers()

    slow, large, leading, good = Receiver(), Receiver(answer=huge), Receiver(answer=redirecting), Receiver()
    slow.answer = slow.hold
    with (
        listening(elsewhere),
        listening(slow),
        listening(large),
        listening(leading),
        listening(good),
        office.client() as client,
    ):
        for name, receiver in (("slow", slow), ("large", large), ("leading", leading), ("good", good)):
            add(client, receiver, f"webhook:{name}")
            office.submit(4, name, deliver_to=f"webhook:{name}")
        office.until(lambda: counts(client, "webhook:good") == {"delivered": 4}, "the good one has everything")
        office.until(lambda: counts(client, "webhook:large") == {"delivered": 4}, "2xx is 2xx, whatever follows")
        office.until(
            lambda: (
                client.destination("webhook:slow")["failures"] and client.destination("webhook:leading")["failures"]
            ),
            "the others have failed",
        )
        errors = {
            name: client.deliveries(destination=f"webhook:{name}")[0][0]["last_error"] for name in ("slow", "leading")
        }
        assert "no answer within 2 s" in errors["slow"]
        assert errors["leading"] == "the receiver answered 307, and redirects are not followed"
        assert elsewhere.got == []
        memory = client.status()["daemon"]["memory"]
        assert memory["rss_peak_bytes"] - memory["rss_ready_bytes"] < 60_000_000


def test_410_pauses_a_destination_and_a_test_says_when_it_works_again(office: Stage) -> None:
    def gone(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(410)
        handler.send_header("content-length", "0")
        handler.end_headers()

    with listening(Receiver(answer=gone)) as receiver, office.client() as client:
        add(client, receiver)
        office.submit(20, deliver_to=APP)
        office.until(lambda: client.destination(APP)["state"] == "paused", "it is paused")
        office.until(lambda: counts(client) == {"pending": 20}, "what was under way has come back")
        assert client.test_destination(APP)["outcome"] == "gone"
        assert "410" in office.run("destinations", "test", "app", expect=1).stdout
        receiver.answer = ok
        told = client.test_destination(APP)
        assert (told["outcome"], told["status"]) == ("delivered", 204)
        assert "resume" in told["advice"]
        test = receiver.got[-1]
        assert (test.event["type"], test.id) == ("unhurried.test", test.event["data"]["delivery_id"])
        assert counts(client)["pending"] == 20
        office.run("destinations", "resume", "app")
        office.until(lambda: counts(client) == {"delivered": 20}, "all are delivered")


def test_an_application_is_reached_on_its_own_socket(office: Stage) -> None:
    """In the folder of the daemon's socket; a socket elsewhere, and the daemon's own, are refused."""
    with listening(Receiver(secret=None), path=office.folder / "app.sock") as receiver, office.client() as client:
        client.put_webhook(APP, receiver.url)
        ids = office.submit(20, deliver_to=APP)
        office.until(lambda: counts(client) == {"delivered": 20}, "all are delivered")
        assert receiver.requests() == set(ids)
        assert "webhook-signature" not in receiver.got[0].headers
        own = str(office.socket).replace("/", "%2F")
        for url, why in ((f"http+unix://{own}/", "own socket"), ("http+unix://%2Fvar%2Fx.sock/", "outside of")):
            client.put_webhook(OTHER, url)
            told = client.test_destination(OTHER)
            assert told["outcome"] == "misconfigured" and why in told["detail"]


def test_a_private_address_is_refused_unless_it_is_allowed(office: Stage) -> None:
    wait_for_upstream(office)
    office.stop()
    del office.settings["UNHURRIED_DELIVERY__ALLOWED_NETWORKS"]
    office.start()
    with listening(Receiver()) as receiver, office.client() as client:
        add(client, receiver)
        told = client.test_destination(APP)
        assert told["outcome"] == "misconfigured"
        assert "127.0.0.1" in told["detail"] and "UNHURRIED_DELIVERY__ALLOWED_NETWORKS" in told["detail"]
        assert receiver.got == []


def test_a_secret_is_replaced_without_a_gap(office: Stage) -> None:
    """The receiver knows the old one, then the new one: while both sign, either does."""
    with listening(Receiver(secret=OLD_SECRET)) as receiver, office.client() as client:
        add(client, receiver, secrets=("env:APP_OLD_SECRET",))
        steps = [
            (("env:APP_SECRET", "env:APP_OLD_SECRET"), OLD_SECRET),
            (("env:APP_SECRET", "env:APP_OLD_SECRET"), SECRET),
            (("env:APP_SECRET",), SECRET),
        ]
        for number, (secrets, known) in enumerate(steps):
            add(client, receiver, secrets=secrets)
            receiver.secret = known
            office.submit(5, f"step{number}", deliver_to=APP)
            office.until(lambda n=number: counts(client) == {"delivered": 5 * (n + 1)}, "all are delivered")  # type: ignore[misc]
        assert not receiver.forged


def test_a_secret_that_was_replaced_in_its_file_counts_at_once(office: Stage) -> None:
    file = office.folder / "app.secret"
    with listening(Receiver()) as receiver, office.client() as client:
        added = office.run("destinations", "add", "app", receiver.url, "--generate-secret", str(file))
        assert file.stat().st_mode & 0o777 == 0o600
        receiver.secret = file.read_text().strip()
        assert receiver.secret not in added.stdout
        assert client.destination(APP)["secrets"] == [f"file:{file}"]
        office.run("destinations", "test", APP)
        file.write_text(SECRET)
        assert "401" in office.run("destinations", "test", APP, expect=1).stdout
        receiver.secret = SECRET
        office.run("destinations", "test", APP)
        assert SECRET not in office.tail(1_000)


def test_what_was_delivered_or_died_can_be_delivered_again(office: Stage) -> None:
    with listening(Receiver()) as receiver, office.client() as client:
        add(client, receiver)
        ids = office.submit(10, deliver_to=APP)
        office.until(lambda: counts(client) == {"delivered": 10}, "all are delivered")
        office.run("deliveries", "redeliver", f"{ids[0]}.1")
        office.until(lambda: counts(client) == {"delivered": 11}, "one came again")
        counted = office.run(
            "deliveries", "redeliver", "--destination", APP, "--state", "delivered", "--since", "1h", "--json"
        )
        assert json.loads(counted.stdout) == {"deliveries": 10, "dry_run": True}
        office.run("deliveries", "redeliver", "--destination", APP, "--state", "delivered", "--yes")
        office.until(lambda: counts(client) == {"delivered": 21}, "all came again")
        assert receiver.ids() == {f"{id}.{n}": 1 for id in ids for n in ((1, 2, 3) if id == ids[0] else (1, 2))}


def test_a_stop_finishes_what_is_under_way_and_the_rest_comes_after_the_start(office: Stage) -> None:
    with listening(Receiver()) as receiver:
        receiver.answer = receiver.hold
        with office.client() as client:
            add(client, receiver)
            ids = office.submit(20, deliver_to=APP)
            assert receiver.held.acquire(timeout=60)
        receiver.answer = ok
        receiver.gate.set()
        assert office.stop() == 0
        office.start()
        with office.client() as client:
            office.until(lambda: counts(client) == {"delivered": 20}, "all are delivered")
        assert receiver.ids() == {f"{id}.1": 1 for id in ids}


def test_a_stream_hands_out_what_comes_and_takes_back_what_was_not_confirmed(scene: Stage) -> None:
    scene.start()
    with scene.client() as client:
        ids = scene.submit(30, "s")
        taken = []
        stream = client.stream("pull:s", window=10, lease=3_600)
        for result in stream:
            taken.append(result)
            if len(taken) <= 20:
                client.ack([str(result.delivery_id)])
            if len(taken) == 25:
                break
        stream.close()  # type: ignore[attr-defined]  # it is a generator
        assert len({result.request_id for result in taken}) == 25
        rest = {result.request_id for result in client.stream("pull:s", wait=1)}
        assert rest == set(ids) - {result.request_id for result in taken[:20]}
        cursor = taken[-1].event_id
        after = list(client.stream("pull:s", after=cursor, wait=1))
        assert all(result.event_id > cursor for result in after) and len(after) == 5
        printed = scene.run("results", "stream", "--destination", "pull:s", "--wait", "1", "--ack").stdout
        assert {json.loads(line)["request_id"] for line in printed.splitlines()} == rest
        assert client.pull("pull:s") == []
        assert counts(client, "pull:s") == {"delivered": 30}
    scene.assert_sound()


def test_a_stop_ends_a_stream_in_order(scene: Stage) -> None:
    scene.start()
    wait_for_upstream(scene)
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(scene.socket)), timeout=30) as http:
        with http.stream("GET", "http://localhost/queue/results/stream") as answer:
            parts = answer.iter_raw()
            assert next(parts).startswith(b"retry: ")
            assert scene.daemon is not None
            scene.daemon.terminate()
            assert b"".join(parts) == b""
        assert scene.daemon.wait(10) == 0
    scene.daemon = None
