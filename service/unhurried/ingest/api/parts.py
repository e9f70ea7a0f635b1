"""What the route modules share: strict shapes for queries and bodies, and how an answer is encoded."""

from typing import Annotated, Any, Final

from fastapi import Depends, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from unhurried.clock import Ms, parse_rfc3339
from unhurried.ingest import asgi, views
from unhurried.ingest.problems import Problem

Name = Annotated[str, Field(min_length=1, max_length=64)]
Id = Annotated[str, Path(max_length=64)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NoQuery(Strict):
    pass


def _require_json(request: Request) -> None:
    if asgi.media_type(request.scope) != b"application/json":
        raise Problem("unsupported_media_type", "send application/json")
    asgi.require_plain(request.scope)


JSON_ONLY: Final = [Depends(_require_json)]
Nothing = Annotated[NoQuery, Query()]


class Json(JSONResponse):
    """A shape of ``views``, encoded once, its spliced bytes untouched."""

    def render(self, content: Any) -> bytes:
        return views.encode(content)


def actor(request: Request) -> str:
    """Who asks, for the events: the uid at the other end of the socket."""
    uid = asgi.peer_uid(request.scope)
    return "http" if uid is None else f"uid:{uid}"


def moment(text: str | None) -> Ms | None:
    """The time in a field ``since``."""
    if text is None:
        return None
    try:
        return parse_rfc3339(text)
    except (ValueError, OverflowError):
        says = f"since {text[:60]!r} is not a time such as 2026-11-22T08:00:00Z"
        raise Problem("invalid_request", says, field="since") from None
