"""Taking requests in: on disk when answered, one for each idempotency key."""

from pathlib import Path

import pytest

from tests.store.support import NOW, PARAMS, Shop, new, open_shop
from unhurried.clock import after
from unhurried.domain.request import Accepted, KeyConflict
from unhurried.domain.states import RequestState
from unhurried.store.errors import AccountChanged
from unhurried.store.records import RequestFilter

DAY = 86_400


async def test_what_is_accepted_is_there_after_a_kill(tmp_path: Path) -> None:
    """Not even the store is closed: the file is opened as the next process finds it."""
    shop = await open_shop(tmp_path / "a.db")
    try:
        [request_id] = await shop.some(1, metadata={"a": 1}, custom_id="c-1", priority=3)
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in ("a.db", "a.db-wal"):
            (copy / name).write_bytes((tmp_path / name).read_bytes())
    finally:
        await shop.close(clean=False)
    later = await open_shop(copy / "a.db")
    try:
        view = await later.store.request(request_id)
        assert view is not None
        assert (view.state, view.queue, view.model) == (RequestState.QUEUED, "default", PARAMS["model"])
        assert (view.custom_id, view.priority, view.metadata) == ("c-1", 3, b'{"a": 1}')
        assert (view.accepted_at, view.deadline_at) == (NOW, after(NOW, DAY))
        await later.check()
    finally:
        await later.close()


async def test_answers_come_in_the_order_of_the_requests(shop: Shop) -> None:
    requests = [new() for _ in range(20)]
    answers = await shop.store.accept(requests)
    assert list(answers) == [Accepted(request.id, RequestState.QUEUED) for request in requests]


async def test_a_key_brings_the_same_request_within_one_call_and_across_calls(shop: Shop) -> None:
    first, again, other = (new(idempotency_key=key) for key in ("k", "k", "l"))
    assert list(await shop.store.accept([first, again, other])) == [
        Accepted(first.id, RequestState.QUEUED),
        Accepted(first.id, RequestState.QUEUED, duplicate=True),
        Accepted(other.id, RequestState.QUEUED),
    ]
    assert list(await shop.store.accept([new(idempotency_key="k")])) == [
        Accepted(first.id, RequestState.QUEUED, duplicate=True)
    ]
    assert (await shop.ask("select count(*) from requests"))[0][0] == 2


async def test_the_same_key_in_another_queue_is_another_key(shop: Shop) -> None:
    one, two = new(idempotency_key="k"), new(idempotency_key="k", queue="other")
    assert [answer.id for answer in await shop.store.accept([one, two])] == [one.id, two.id]


async def test_a_key_with_another_body_is_a_conflict(shop: Shop) -> None:
    first = new(idempotency_key="k")
    other = new(idempotency_key="k", params={"max_tokens": 65})
    version = new(idempotency_key="k", anthropic_version="2023-06-01")
    assert list(await shop.store.accept([first, other])) == [
        Accepted(first.id, RequestState.QUEUED),
        KeyConflict(first.id),
    ]
    assert list(await shop.store.accept([version])) == [KeyConflict(first.id)]


@pytest.mark.parametrize("key", ["k", "Ω-é-😀", "a'b\"c\\d", "%", "k" * 255])
async def test_any_printable_key_is_found_again(shop: Shop, key: str) -> None:
    first = new(idempotency_key=key)
    await shop.store.accept([first])
    [answer] = await shop.store.accept([new(idempotency_key=key)])
    assert answer == Accepted(first.id, RequestState.QUEUED, duplicate=True)


async def test_a_key_is_forgotten_after_thirty_days(shop: Shop) -> None:
    first = new(idempotency_key="k")
    await shop.store.accept([first])
    almost = new(after(NOW, 30 * DAY - 1), idempotency_key="k")
    assert [answer.id for answer in await shop.store.accept([almost])] == [first.id]
    late = new(after(NOW, 30 * DAY), idempotency_key="k", params={"max_tokens": 65})
    assert list(await shop.store.accept([late])) == [Accepted(late.id, RequestState.QUEUED)]
    again = new(after(NOW, 31 * DAY), idempotency_key="k", params={"max_tokens": 65})
    assert [answer.id for answer in await shop.store.accept([again])] == [late.id]


async def test_old_keys_are_swept_in_chunks(shop: Shop) -> None:
    await shop.take(*(new(idempotency_key=str(i)) for i in range(5)))
    assert await shop.store.forget_keys(after(NOW, 29 * DAY), 3) == 0
    assert await shop.store.forget_keys(after(NOW, 30 * DAY), 3) == 3
    assert await shop.store.forget_keys(after(NOW, 30 * DAY), 3) == 2


async def test_the_state_of_a_repeated_request_is_the_present_one(shop: Shop) -> None:
    await shop.take(new(idempotency_key="k"))
    await shop.submit()
    [answer] = await shop.store.accept([new(idempotency_key="k")])
    assert isinstance(answer, Accepted) and answer.state is RequestState.SUBMITTED


async def test_not_before_keeps_a_request_out_of_its_group(shop: Shop) -> None:
    [request_id] = await shop.some(1, not_before="2026-11-19T00:00:00Z")
    view = await shop.store.request(request_id)
    assert view is not None and view.not_before is not None and view.waits_until == view.not_before
    assert list(await shop.store.groups()) == []
    assert await shop.store.wake_waiting(NOW) == view.not_before
    assert await shop.store.wake_waiting(view.not_before) is None
    [group] = await shop.store.groups()
    assert group.requests == 1


async def test_many_are_woken_in_chunks(shop: Shop) -> None:
    await shop.some(501, not_before="2026-11-19T00:00:00Z")
    late = after(NOW, 10 * DAY)
    assert await shop.store.wake_waiting(late) == late
    assert await shop.store.wake_waiting(late) is None
    assert (await shop.store.groups())[0].requests == 501


async def test_deadlines_models_versions_and_betas_make_groups(shop: Shop) -> None:
    await shop.take(
        new(),
        new(),
        new(max_wait=60),
        new(max_wait=3 * 3_600),
        new(params={"model": "other"}),
        new(anthropic_version="2023-06-01"),
        new(anthropic_beta="x-1"),
        new(queue="other"),
    )
    assert sorted(group.requests for group in await shop.store.groups()) == [1, 1, 1, 1, 1, 1, 2]


async def test_open_requests_are_known_without_asking_the_disk(shop: Shop) -> None:
    """As of the last commit, of all and of each queue, and after a new start as before it."""
    ids = await shop.some(5)
    await shop.some(2, queue="other")
    assert shop.store.open_requests() == 7
    await shop.store.cancel(ids[0], "test", NOW)
    await shop.store.recover(NOW)
    assert shop.store.open_requests() == 6
    of_queue = {queue.name: shop.store.open_requests_of(queue.id) for queue in await shop.store.queues()}
    assert of_queue == {"default": 4, "other": 2}


async def test_a_list_is_newest_first_and_goes_on_behind_its_cursor(shop: Shop) -> None:
    ids = await shop.some(5)
    await shop.some(2, queue="other")
    page = await shop.store.requests(RequestFilter(queue="default"), None, 3)
    assert [view.id for view in page.requests] == ids[:1:-1]
    page = await shop.store.requests(RequestFilter(queue="default"), page.cursor, 3)
    assert [view.id for view in page.requests] == ids[1::-1]
    assert page.cursor is None


async def test_a_database_stays_with_its_account_while_work_is_open(shop: Shop) -> None:
    await shop.some(1)
    await shop.store.record_workspace("wrkspc_1")
    with pytest.raises(AccountChanged, match=r"http://other\.test"):
        await shop.store.bind_account("http://other.test", NOW)
    with pytest.raises(AccountChanged, match="wrkspc_2"):
        await shop.store.record_workspace("wrkspc_2")
    await shop.store.cancel(shop.ids[0], "test", NOW)
    await shop.store.bind_account("http://other.test", NOW)
    account = await shop.store.account()
    assert account is not None and (account.base_url, account.workspace) == ("http://other.test", None)
