"""The judge must be able to condemn: each promise is broken once by hand, and it says which."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos import plan
from tests.chaos.evidence import Acts, Created, Evidence, Receipt, Row, UpstreamBatch
from tests.chaos.oracle import Verdict, judge
from tests.chaos.plan import FACES, TEXT_CHARS

PIECES = {
    piece.key: piece
    for upload in plan.draw(1, requests=40).uploads
    for piece in upload.pieces
    if piece.queue in ("labels", "hook")
}
KEYS = sorted(PIECES)[:4]
IDS = [f"0000-{key}" for key in KEYS]
BATCH, TWIN = "msgbatch_1", "msgbatch_2"


def answer(n: int) -> bytes:
    text = PIECES[KEYS[n]].text[:TEXT_CHARS] + " | and so on"
    return json.dumps({"type": "succeeded", "message": {"content": [{"type": "text", "text": text}]}}).encode()


def receipt(n: int) -> Receipt:
    return Receipt(
        request_id=IDS[n],
        delivery_id=f"{IDS[n]}.1",
        custom_id=KEYS[n],
        state="succeeded",
        result=answer(n),
        via="pull",
    )


def created(n: int, batch: str = BATCH) -> Created:
    digest = hashlib.sha256(PIECES[KEYS[n]].params.encode()).hexdigest()
    return Created(request_id=IDS[n], batch_id=batch, params_sha256=digest, billed=True)


def row(n: int) -> Row:
    return Row(
        custom_id=KEYS[n],
        state="succeeded",
        generation=1,
        delivery=1,
        delivered="delivered",
        erased=False,
        waste=0,
    )


def honest() -> Evidence:
    """Four requests, all well."""
    every = range(len(KEYS))
    return Evidence(
        pieces={key: PIECES[key] for key in KEYS},
        answered={key: {id} for key, id in zip(KEYS, IDS, strict=True)},
        receipts=[receipt(n) for n in every],
        created=[created(n) for n in every],
        batches={BATCH: UpstreamBatch(), TWIN: UpstreamBatch()},
        lines={IDS[n]: {answer(n)} for n in every},
        rows={IDS[n]: row(n) for n in every},
        acts=Acts(),
    )


def test_a_world_in_which_all_went_well_is_acquitted() -> None:
    verdict = judge(honest())
    assert verdict == Verdict(accepted=4, delivered=4, compared=4)


def errored(kind: str) -> Receipt:
    result = {"type": "errored", "error": {"type": "error", "error": {"type": kind, "message": "…"}}}
    return replace(receipt(0), state="errored", result=json.dumps(result).encode())


Break = Callable[[Evidence], Evidence]
CRIMES: dict[str, tuple[str, Break]] = {
    "a result that never came": ("lost", lambda e: replace(e, receipts=e.receipts[1:])),
    "a request without an outcome": (
        "lost", lambda e: replace(e, rows={**e.rows, IDS[0]: replace(row(0), state="assigned")})
    ),
    "a request that nobody remembers": ("lost", lambda e: replace(e, rows=dict(list(e.rows.items())[1:]))),
    "the newest delivery did not come, an older one did": (
        "lost", lambda e: replace(e, rows={**e.rows, IDS[0]: replace(row(0), delivery=2)})
    ),
    "the answer to another prompt": (
        "corrupted",
        lambda e: replace(
            e, receipts=[replace(receipt(0), result=answer(1)), *e.receipts[1:]], lines={**e.lines, IDS[0]: {answer(1)}}
        ),
    ),
    "one byte of a result is another": (
        "corrupted", lambda e: replace(e, receipts=[replace(receipt(0), result=answer(0) + b" "), *e.receipts[1:]])
    ),
    "one delivery with two contents": (
        "corrupted", lambda e: replace(e, receipts=[*e.receipts, replace(receipt(0), result=answer(0) + b" ")])
    ),
    "another caller's name": (
        "corrupted", lambda e: replace(e, receipts=[replace(receipt(0), custom_id=KEYS[1]), *e.receipts[1:]])
    ),
    "upstream got other params": (
        "corrupted", lambda e: replace(e, created=[replace(created(0), params_sha256="00"), *e.created[1:]])
    ),
    "a line was given up that upstream has": (
        "corrupted", lambda e: replace(e, receipts=[errored("missing_result"), *e.receipts[1:]])
    ),
    "a batch was called gone that is there": (
        "corrupted", lambda e: replace(e, receipts=[errored("batch_gone"), *e.receipts[1:]])
    ),
    "a result that nobody had asked for": (
        "spurious", lambda e: replace(e, receipts=[*e.receipts, replace(receipt(0), request_id="x", delivery_id="x.1")])
    ),
    "a request upstream that nobody had made": (
        "spurious", lambda e: replace(e, created=[*e.created, replace(created(0), request_id="x")])
    ),
    "the same request in two batches": ("paid_twice", lambda e: replace(e, created=[*e.created, created(0, TWIN)])),
    "the same request twice in a batch": ("paid_twice", lambda e: replace(e, created=[*e.created, created(0)])),
}  # fmt: skip


@pytest.mark.parametrize(("column", "crime"), CRIMES.values(), ids=CRIMES)
def test_each_broken_promise_is_counted_and_told(column: str, crime: Break) -> None:
    verdict = judge(crime(honest()))
    assert getattr(verdict, column) >= 1
    assert verdict.violations


SILENT: dict[str, Break] = {
    "a caller without an answer": lambda e: replace(e, answered=dict(list(e.answered.items())[1:])),
    "one key, two requests": lambda e: replace(e, answered={**e.answered, KEYS[0]: {IDS[0], "another"}}),
    "a second delivery that nobody had asked for": lambda e: replace(
        e, receipts=[*e.receipts, replace(receipt(0), delivery_id=f"{IDS[0]}.2")]
    ),
    "a late twin that the daemon hides": lambda e: replace(
        e, created=[*e.created, created(0, TWIN)], batches={**e.batches, TWIN: UpstreamBatch(late=True)}
    ),
    "waste that there was not": lambda e: replace(e, rows={**e.rows, IDS[0]: replace(row(0), waste=1)}),
    "a delivery that was not confirmed": lambda e: replace(
        e, rows={**e.rows, IDS[0]: replace(row(0), delivered="sending")}
    ),
    "a complaint of the run itself": lambda e: replace(e, complaints=["the daemon ended with 70"]),
}


@pytest.mark.parametrize("crime", SILENT.values(), ids=SILENT)
def test_what_fits_no_column_is_a_violation_all_the_same(crime: Break) -> None:
    assert judge(crime(honest())).violations


def test_a_late_twin_that_is_reported_is_counted_and_no_violation() -> None:
    seen = honest()
    seen = replace(
        seen,
        created=[*seen.created, created(0, TWIN)],
        batches={**seen.batches, TWIN: UpstreamBatch(late=True)},
        rows={**seen.rows, IDS[0]: replace(row(0), waste=1)},
    )
    verdict = judge(seen)
    assert (verdict.late_twins, verdict.paid_twice, verdict.violations) == (1, 0, [])


@pytest.mark.parametrize("known", [True, False])
def test_a_batch_that_was_deleted_excuses_a_second_payment_only_if_nobody_had_found_it(known: bool) -> None:
    seen = honest()
    batches = {**seen.batches, TWIN: UpstreamBatch(deleted=True, known=known)}
    verdict = judge(replace(seen, created=[*seen.created, created(0, TWIN)], batches=batches))
    assert (verdict.paid_twice, verdict.deleted_unseen) == ((1, 0) if known else (0, 1))


def test_the_outcome_of_a_deleted_batch_has_a_name() -> None:
    seen = honest()
    seen = replace(
        seen,
        receipts=[errored("batch_gone"), *seen.receipts[1:]],
        batches={BATCH: UpstreamBatch(deleted=True)},
        rows={**seen.rows, IDS[0]: replace(row(0), state="errored")},
    )
    verdict = judge(seen)
    assert (verdict.gone, verdict.violations) == (1, [])


def test_every_queue_is_read_by_somebody() -> None:
    assert {piece.queue for piece in plan.draw(1, requests=400).pieces.values()} == set(FACES)
