"""Couriers: what is due is carried where it belongs, and no destination suffers for another."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.loops.post import OK, post_at
from unhurried import dispatcher
from unhurried.clock import after
from unhurried.dispatcher import IDLE_S
from unhurried.domain.delivering import SCHEDULE_S, Gone, Misconfigured, TryAgain
from unhurried.store.errors import StoreFull
from unhurried.store.records import Claimed

DOWN = TryAgain(detail="the receiver answered 500", status=500)


async def test_what_is_due_is_sent_once_and_then_there_is_nothing_to_do(tmp_path: Path) -> None:
    async with post_at(tmp_path) as post:
        await post.put()
        assert await post.turn() == IDLE_S
        ids = await post.results(10)
        assert await post.turn() == IDLE_S
        assert sorted(post.app.ids) == sorted(ids)
        assert await post.states() == {"delivered": 10}
        assert post.dispatcher.attempts == {("webhook:app", "delivered"): 10}


async def test_a_destination_that_hangs_delays_no_other(tmp_path: Path) -> None:
    async with post_at(tmp_path) as post:
        await post.put("app")
        await post.put("other")
        post.app.gate.clear()
        hanging = await post.results(20, "app")
        await post.turn()
        assert (post.receivers.held, len(post.app.got)) == (4, 4)
        await post.results(30, "other")
        await post.turn()
        assert await post.states("other") == {"delivered": 30}
        assert await post.states("app") == {"sending": 4, "pending": 16}
        await post.release(post.app)
        assert sorted(post.app.ids) == sorted(hanging)


async def test_a_destination_that_is_down_delays_no_other(tmp_path: Path) -> None:
    async with post_at(tmp_path) as post:
        await post.put("app")
        await post.put("other")
        post.app.always = DOWN
        await post.results(50, "app")
        await post.results(50, "other")
        await post.turn()
        assert await post.states("other") == {"delivered": 50}
        assert await post.states("app") == {"pending": 50}


@pytest.mark.parametrize(("own", "at_once"), [(None, 4), (2, 2), (7, 7)])
async def test_so_many_are_under_way_at_once_and_no_more(tmp_path: Path, own: int | None, at_once: int) -> None:
    async with post_at(tmp_path) as post:
        await post.put(concurrency=own)
        post.app.gate.clear()
        await post.results(20)
        await post.turn()
        await post.turn()  # another look changes nothing
        assert post.receivers.held == at_once
        await post.release(post.app)
        assert await post.states() == {"delivered": 20}
        assert post.app.at_once_max == at_once


async def test_the_breaker_opens_and_one_attempt_tries_whether_it_works_again(tmp_path: Path) -> None:
    async with post_at(tmp_path, concurrency=4) as post:
        await post.put()
        await post.results(20)
        post.app.always = DOWN
        assert await post.turn() == 30
        burned = len(post.app.got)
        assert 5 <= burned <= 8  # the fifth failure opens it, and at most three are under way beside it
        post.clock.pass_s(29)
        assert await post.turn() == 1
        post.clock.pass_s(1)
        await post.turn()
        assert len(post.app.got) == burned + 1  # one, to see, and it failed
        post.clock.pass_s(59)
        await post.turn()
        assert len(post.app.got) == burned + 1
        assert await post.states() == {"pending": 20}
        post.clock.pass_s(1)
        post.app.always = OK
        post.app.gate.clear()
        post.app.let_through = 1
        await post.turn()
        assert post.receivers.held == 4  # the others join as soon as it has worked once
        await post.release(post.app)
        assert await post.states() == {"delivered": 20}  # the first pause of those that had failed was over, too


async def test_an_open_breaker_is_waited_for_and_not_polled(tmp_path: Path) -> None:
    async with post_at(tmp_path) as post:
        await post.put()
        await post.results(1)
        post.app.outcomes = [TryAgain(detail="503", status=503, retry_after_s=12, throttled=True)]
        assert await post.turn() == 12
        post.clock.pass_s(11.9)
        await post.turn()
        assert len(post.app.got) == 1
        post.clock.pass_s(0.1)
        await post.turn()
        assert await post.states() == {"delivered": 1}


async def test_410_pauses_the_destination_until_somebody_resumes_it(tmp_path: Path) -> None:
    async with post_at(tmp_path, concurrency=1) as post:
        await post.put()
        post.app.outcomes = [Gone(detail="410")]
        await post.results(3)
        await post.turn()
        post.clock.pass_s(10**6)
        assert await post.turn() == IDLE_S
        assert len(post.app.got) == 1
        await post.shop.store.resume_destination("webhook:app", "test", post.clock.now())
        await post.turn()
        assert await post.states() == {"delivered": 3}
        assert {parcel.attempt for parcel in post.app.got} == {1}


async def test_after_ten_attempts_over_three_days_a_delivery_is_dead(tmp_path: Path) -> None:
    async with post_at(tmp_path) as post:
        await post.put()
        [delivery] = await post.results(1)
        post.app.always = DOWN
        begun = post.clock.now()
        for attempt in range(1, 11):
            await post.turn()
            assert [parcel.attempt for parcel in post.app.got] == list(range(1, attempt + 1))
            post.clock.pass_s(SCHEDULE_S[attempt - 1] if attempt < 10 else 0)
        assert await post.states() == {"dead": 1}
        assert set(post.app.ids) == {delivery}
        shown = await post.shop.store.delivery(delivery)
        assert shown is not None and shown.finished_at == after(begun, sum(SCHEDULE_S))
        post.clock.pass_s(10**6)
        await post.turn()
        assert len(post.app.got) == 10


async def test_a_secret_that_is_missing_burns_no_attempt(tmp_path: Path) -> None:
    async with post_at(tmp_path) as post:
        await post.put()
        await post.results(1)
        post.app.always = Misconfigured(detail="the secret env:A is not set")
        for _ in range(15):
            await post.turn()
            post.clock.pass_s(700)
        post.app.always = OK
        await post.turn()
        assert await post.states() == {"delivered": 1}
        assert {parcel.attempt for parcel in post.app.got} == {1}
        assert post.dispatcher.attempts["webhook:app", "misconfigured"] == 15


async def test_an_outcome_is_recorded_however_long_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not sent again meanwhile, and nothing else is taken."""
    async with post_at(tmp_path, concurrency=1) as post:
        await post.put()
        await post.results(2)
        really = post.shop.store.record_outcome
        tries: list[int] = []

        async def full(*arguments: Any, **how: Any) -> Claimed | None:
            tries.append(len(post.app.got))
            if len(tries) < 4:
                raise StoreFull("the disk is full")
            return await really(*arguments, **how)

        monkeypatch.setattr(post.shop.store, "record_outcome", full)
        await post.turn()
        assert tries == [1, 1, 1, 1, 2]
        assert await post.states() == {"delivered": 2}


async def test_a_pause_holds_back_what_is_not_yet_under_way(tmp_path: Path) -> None:
    async with post_at(tmp_path, concurrency=2) as post:
        await post.put()
        post.app.gate.clear()
        await post.results(5)
        await post.turn()
        assert await post.shop.store.pause_destination("webhook:app", "we move", "test", post.clock.now())
        await post.release(post.app)
        assert await post.states() == {"delivered": 2, "pending": 3}
        await post.shop.store.resume_destination("webhook:app", "test", post.clock.now())
        await post.turn()
        assert await post.states() == {"delivered": 5}


async def test_a_change_of_address_holds_for_everything_not_yet_under_way(tmp_path: Path) -> None:
    async with post_at(tmp_path, concurrency=1) as post:
        await post.put(path="/old")
        post.app.gate.clear()
        await post.results(3)
        await post.turn()
        await post.put(path="/new")
        await post.release(post.app)
        assert post.app.paths == ["/old", "/new", "/new"]


async def test_a_url_that_somebody_broke_in_the_database_is_told_and_ends_nothing(tmp_path: Path) -> None:
    async with post_at(tmp_path) as post:
        await post.put()
        [delivery] = await post.results(1)
        await post.shop.ask("update destinations set url = 'gopher://nonsense'")
        await post.turn()
        shown = await post.shop.store.delivery(delivery)
        assert shown is not None and shown.attempts == 0
        assert shown.last_error is not None and "https://" in shown.last_error


async def test_a_courier_ends_after_so_many_rounds_and_another_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "ROUNDS_MAX", 3)
    async with post_at(tmp_path, concurrency=1) as post:
        await post.put()
        await post.results(10)
        await post.turn()
        assert await post.states() == {"delivered": 10}


async def test_once_it_is_to_stop_attempts_are_finished_and_none_begun(tmp_path: Path) -> None:
    async with post_at(tmp_path, concurrency=2) as post:
        await post.put()
        post.app.gate.clear()
        await post.results(5)
        await post.turn()
        post.stop.set()
        await post.release(post.app)
        assert len(post.app.got) == 2
        assert await post.states() == {"delivered": 2, "pending": 3}


async def test_what_was_cut_off_is_sent_again_under_the_same_id_by_the_next_daemon(tmp_path: Path) -> None:
    async with post_at(tmp_path, kill=True) as post:
        await post.put()
        post.app.gate.clear()
        ids = await post.results(3)
        await post.turn()
        assert sorted(post.app.ids) == sorted(ids)
        before = post.app.got
    async with post_at(tmp_path) as post:
        await post.turn()
        assert await post.states() == {"delivered": 3}
        assert sorted(post.app.got, key=str) == sorted(before, key=str)  # attempt and all


async def test_a_bug_in_a_courier_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not swallowed: a courier that dies in silence would be missed by nobody."""

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    async def run() -> None:
        async with post_at(tmp_path) as post:
            await post.put()
            await post.results(1)
            monkeypatch.setattr(post.receivers, "send", broken)
            await post.dispatcher.step(post.clock.now())
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as ended:
        await run()
    assert ended.group_contains(ZeroDivisionError)
