"""Routes about destinations: where results go, and how that goes.

A list shows the origin of a URL only: its path may be a secret of the receiver's. Secrets are shown as the references
they were given as, and never looked up here.
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
from fastapi import Body, FastAPI, Path, Query, Request, Response
from msgspec import UNSET, UnsetType
from pydantic import Field

from unhurried.clock import Ms, rfc3339
from unhurried.domain.delivering import (
    Delivered,
    Gone,
    Misconfigured,
    Outcome,
    TryAgain,
    breaker_state,
    check_destination,
    parse_secret_ref,
    parse_target,
)
from unhurried.domain.request import WEBHOOK_NAME, Refusal
from unhurried.ingest import describe
from unhurried.ingest.api.parts import JSON_ONLY, Json, Nothing, Strict, actor
from unhurried.ingest.deps import IngestDeps
from unhurried.ingest.problems import Problem
from unhurried.ingest.views import Time
from unhurried.store import records

PATH: Final = "/queue/destinations/{name}"
WEBHOOKS: Final = "webhook:"
CONCURRENCY_MAX: Final = 100
REASON_CHARS_MAX: Final = 500

DestinationName = Annotated[str, Path(max_length=120, description="`webhook:NAME` or `pull:NAME`.")]


class Destination(msgspec.Struct, kw_only=True):
    """Where results go. ``deliveries`` counts by state; ``failures`` are in a row, ``open_until``: no attempt before.

    ``url`` and ``secrets`` (references) only where one destination was asked for.
    """

    name: str
    kind: Literal["pull", "webhook"]
    state: Literal["ok", "failing", "breaker_open", "paused"]
    origin: str | None
    url: str | UnsetType | None = UNSET
    secrets: Sequence[str] | UnsetType = UNSET
    concurrency: int | None
    created_at: Time
    deliveries: dict[str, int]
    next_due_at: Time | None
    failures: int
    failing_since: Time | None
    open_until: Time | None
    paused_at: Time | None
    pause_reason: str | None


class Destinations(msgspec.Struct):
    """By name. ``cursor`` is the ``after`` of the next page, null at the end."""

    destinations: list[Destination]
    cursor: str | None


class WebhookTest(msgspec.Struct, kw_only=True):
    """What came of one test event. ``advice``: what to do about it."""

    outcome: Literal["delivered", "failed", "gone", "misconfigured"]
    status: int | None
    ms: int
    detail: str | None
    advice: str | None


class Paused(msgspec.Struct):
    """``paused`` is false when it was paused before."""

    paused: bool


class DestinationResumed(msgspec.Struct):
    """``resumed`` is false when there was neither a pause to end nor an open breaker."""

    resumed: bool


SHAPES = (Destination, Destinations, WebhookTest, Paused, DestinationResumed)


class DestinationQuery(Strict):
    kind: Literal["pull", "webhook"] | None = Field(None, description="Only those of this kind.")
    after: Annotated[str, Field(max_length=120)] = Field("", description="A name: only those behind it.")
    limit: int = Field(100, ge=1, le=1_000)


class WebhookBody(Strict):
    url: str = Field(max_length=10_000, description="`https://…`, `http://…` or `http+unix://%2Fpath%2Fto.sock/…`.")
    secrets: list[Annotated[str, Field(max_length=10_000)]] = Field(
        [], max_length=100, description="References: `env:NAME` or `file:/absolute/path`. The first signs, as all do."
    )
    concurrency: int | None = Field(
        None, ge=1, le=CONCURRENCY_MAX, description="Attempts under way at once; null: as the daemon's settings say."
    )


class PauseBody(Strict):
    reason: str = Field("paused by an operator", min_length=1, max_length=REASON_CHARS_MAX)


def add_routes(api: FastAPI, deps: IngestDeps) -> None:
    _add_looks(api, deps)
    _add_put(api, deps)
    _add_acts(api, deps)


async def _existing(deps: IngestDeps, name: str, *, webhook: bool = False) -> records.Destination:
    """Raises ``Problem`` when there is none of this name, or none that this can be done to."""
    found = await deps.destinations.destination(name)
    if found is None:
        raise Problem("not_found", f"there is no destination {name[:120]!r}")
    if webhook and found.kind != "webhook":
        says = f"{name} is pulled from: there is nothing to pause, to resume or to test"
        raise Problem("invalid_request", says, field="name")
    return found


def _add_looks(api: FastAPI, deps: IngestDeps) -> None:
    store = deps.destinations

    @api.get("/queue/destinations", responses=describe.answers(Destinations))
    async def list_destinations(query: Annotated[DestinationQuery, Query()]) -> Response:
        """Destinations by name, with what waits for each."""
        after = max(query.after, WEBHOOKS) if query.kind == "webhook" else query.after
        found = await store.destinations(after, query.limit)
        shown = [one for one in found if query.kind in (None, one.kind)]
        cursor = found[-1].name if len(found) == query.limit == len(shown) else None
        now = deps.clock.now()
        return Json(Destinations([_shown(one, now) for one in shown], cursor))

    @api.get(PATH, responses=describe.answers(Destination, problems=(404,)))
    async def show_destination(name: DestinationName, nothing: Nothing) -> Response:
        """One destination, with its whole URL and the references to its secrets."""
        return Json(_shown(await _existing(deps, name), deps.clock.now(), single=True))


def _add_put(api: FastAPI, deps: IngestDeps) -> None:
    store = deps.destinations

    @api.put(PATH, responses=describe.answers(Destination, 200, 201, problems=(400, 413, 415)), dependencies=JSON_ONLY)
    async def put_webhook(
        name: DestinationName, body: Annotated[WebhookBody, Body()], request: Request, nothing: Nothing
    ) -> Response:
        """Add a webhook, or change the one of that name. From then on `deliver_to` may name it."""
        if not WEBHOOK_NAME.fullmatch(name):
            says = f"{name[:120]!r} cannot be put: webhooks are webhook:NAME, and pull:NAME comes into being by use"
            raise Problem("invalid_request", says, field="name")
        target = parse_target(body.url)
        secrets = [parse_secret_ref(text) for text in body.secrets]
        check_destination(target, secrets)
        references = [str(secret) for secret in secrets]
        now = deps.clock.now()
        new = await store.put_webhook(name, target.url, references, body.concurrency, actor(request), now)
        deps.webhooks.add(name)  # once it is on disk, so that no request waits for a destination that is not there
        deps.bells.dispatcher.ring()
        return Json(_shown(await _existing(deps, name), now, single=True), status_code=201 if new else 200)


def _add_acts(api: FastAPI, deps: IngestDeps) -> None:
    store = deps.destinations

    @api.post(
        PATH + "/pause", responses=describe.answers(Paused, problems=(400, 404, 413, 415)), dependencies=JSON_ONLY
    )
    async def pause_destination(
        name: DestinationName, body: Annotated[PauseBody, Body()], request: Request, nothing: Nothing
    ) -> Response:
        """Attempt nothing there until it is resumed. What is under way is finished; the rest waits, at no cost."""
        await _existing(deps, name, webhook=True)
        return Json(Paused(bool(await store.pause_destination(name, body.reason, actor(request), deps.clock.now()))))

    @api.post(PATH + "/resume", responses=describe.answers(DestinationResumed, problems=(404,)))
    async def resume_destination(name: DestinationName, request: Request, nothing: Nothing) -> Response:
        """End a pause, whoever made it, and forget the failures before it. One that is failing and not paused is tried
        once, now."""
        await _existing(deps, name, webhook=True)
        resumed = await store.resume_destination(name, actor(request), deps.clock.now())
        deps.bells.dispatcher.ring()
        return Json(DestinationResumed(bool(resumed)))

    @api.post(PATH + "/test", responses=describe.answers(WebhookTest, problems=(404,)))
    async def test_destination(name: DestinationName, nothing: Nothing) -> Response:
        """Send one signed event of type `unhurried.test`, at once and beside the queue, paused or not."""
        found = await _existing(deps, name, webhook=True)
        return Json(await _tested(deps, found))


async def _tested(deps: IngestDeps, found: records.Destination) -> WebhookTest:
    try:
        target = parse_target(found.url or "")
        secrets = [parse_secret_ref(text) for text in found.secrets]
    except Refusal as refusal:  # the database was changed by hand
        return _told(Misconfigured(detail=refusal.detail), 0.0, found)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    outcome = await deps.test_webhook(target, secrets)
    return _told(outcome, loop.time() - begun, found)


def _shown(found: records.Destination, now: Ms, *, single: bool = False) -> Destination:
    breaker = found.breaker
    return Destination(
        name=found.name,
        kind="webhook" if found.kind == "webhook" else "pull",
        state=_state(found, now),
        origin=_origin(found.url),
        url=found.url if single else UNSET,
        secrets=found.secrets if single else UNSET,
        concurrency=found.concurrency,
        created_at=rfc3339(found.created_at),
        deliveries=found.deliveries,
        next_due_at=_time(found.next_due_at or None),  # 0: at once
        failures=breaker.failures,
        failing_since=_time(breaker.failing_since),
        open_until=_time(breaker.open_until) if breaker_state(breaker, now) == "open" else None,
        paused_at=_time(found.paused_at),
        pause_reason=found.pause_reason,
    )


def _state(found: records.Destination, now: Ms) -> Literal["ok", "failing", "breaker_open", "paused"]:
    if found.paused_at is not None:
        return "paused"
    if breaker_state(found.breaker, now) == "open":
        return "breaker_open"
    return "failing" if found.breaker.failures else "ok"


def _origin(url: str | None) -> str | None:
    if url is None:
        return None
    try:
        return parse_target(url).origin
    except Refusal:  # the database was changed by hand
        return "(a URL that cannot be used)"


def _told(outcome: Outcome, seconds: float, found: records.Destination) -> WebhookTest:
    ms = round(seconds * 1000)
    match outcome:
        case Delivered(status=status):
            advice = f"it works: resume it (unhurried destinations resume {found.name})" if found.paused_at else None
            return WebhookTest(outcome="delivered", status=status, ms=ms, detail=None, advice=advice)
        case TryAgain(status=status, detail=detail):
            return WebhookTest(outcome="failed", status=status, ms=ms, detail=detail, advice=_advice(status))
        case Gone(detail=detail):
            advice = "410 says that nothing is wanted there any more: correct the URL, or ask the receiver's owner"
            return WebhookTest(outcome="gone", status=410, ms=ms, detail=detail, advice=advice)
        case Misconfigured(detail=detail):
            advice = "nothing was sent: correct what the detail names, on this side, and test again"
            return WebhookTest(outcome="misconfigured", status=None, ms=ms, detail=detail, advice=advice)


_ADVICE: Final = {
    400: "it was understood and refused, perhaps for its signature: compare the secret on both sides",
    401: "the receiver does not accept the signature: compare the secret on both sides",
    403: "the receiver does not accept the signature, or something in front of it lets nobody in: compare the secret",
    404: "correct the path of the URL",
    405: "correct the path of the URL: nothing takes a POST there",
    413: "raise what the receiver accepts, or lower UNHURRIED_DELIVERY__RESULT_BYTES_MAX",
    429: "the receiver asks for rest; lower the concurrency if it keeps doing so",
}


def _advice(status: int | None) -> str:
    if status is None:
        return "nobody answered: is the receiver running, and can it be reached from this machine?"
    if 300 <= status < 400:
        return "redirects are not followed: give the URL that it leads to"
    return _ADVICE.get(status, "look into the receiver's log")


def _time(moment: Ms | None) -> str | None:
    return None if moment is None else rfc3339(moment)
