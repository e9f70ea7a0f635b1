"""The route of the results stream; how it runs is in ``ingest.streaming``."""

from typing import Annotated, Final

from fastapi import FastAPI, Header, Query, Response
from pydantic import Field

from unhurried.domain.request import PULL_NAME, QUEUE_NAME
from unhurried.ingest import describe
from unhurried.ingest.api.parts import Strict
from unhurried.ingest.deps import IngestDeps
from unhurried.ingest.problems import Problem
from unhurried.ingest.streaming import MEDIA_TYPE, EventStream, Wish

SEQ_MAX: Final = 10**18 - 1
LEASE_MAX_S: Final = 86_400


class StreamQuery(Strict):
    destination: str | None = Field(None, pattern=f"^{PULL_NAME.pattern}$")
    queue: str | None = Field(None, pattern=f"^{QUEUE_NAME.pattern}$", description="Short for pull:QUEUE.")
    window: int = Field(100, ge=1, le=1_000, description="At most so many results that are not confirmed, at once.")
    lease: float | None = Field(None, ge=1, le=LEASE_MAX_S, description="Seconds.")
    after: int = Field(0, ge=0, le=SEQ_MAX, description="The id of an event: skip what was made before it, and it.")
    wait: float | None = Field(None, ge=0, le=LEASE_MAX_S, description="End when nothing came for so many seconds.")


def add_routes(api: FastAPI, deps: IngestDeps) -> None:
    @api.get(
        "/queue/results/stream", responses=describe.plain(MEDIA_TYPE), response_class=EventStream, response_model=None
    )
    async def stream_results(
        query: Annotated[StreamQuery, Query()],
        last_event_id: Annotated[str | None, Header(pattern="^[0-9]{1,18}$", description="Means `after`.")] = None,
    ) -> Response:
        """Results as they come, as server-sent events, under a lease each; to be confirmed as pulled ones are."""
        if query.destination is not None and query.queue is not None:
            raise Problem("invalid_request", "give a destination or a queue, not both", field="queue")
        wish = Wish(
            destination=query.destination or f"pull:{query.queue or 'default'}",
            window=query.window,
            lease_s=deps.settings.lease_s if query.lease is None else query.lease,
            after_seq=max(query.after, int(last_event_id or 0)),
            idle_s=query.wait,
        )
        return EventStream(deps, wish)
