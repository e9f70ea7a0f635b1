"""Errors in upstream's shape, and the exception that carries one to the client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

ERROR_TYPES_IN_RESULTS: Final = (
    "invalid_request_error",
    "authentication_error",
    "billing_error",
    "permission_error",
    "not_found_error",
    "rate_limit_error",
    "timeout_error",
    "api_error",
    "overloaded_error",
)
"""The nine error types that a result line can carry (SDK union, read 2026-11)."""

ERROR_TYPE_BY_STATUS: Final[Mapping[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}

MESSAGES: Final[Mapping[str, str]] = {
    "invalid_request_error": "The request is not valid.",
    "authentication_error": "invalid x-api-key",
    "billing_error": "There is an issue with your billing or payment information.",
    "permission_error": "Your API key does not have permission to use the specified resource.",
    "not_found_error": "The requested resource could not be found.",
    "conflict_error": "The resource is in a state that conflicts with this request.",
    "request_too_large": "Request exceeds the maximum size",
    "rate_limit_error": "This request would exceed your organization's rate limit.",
    "timeout_error": "Request timed out.",
    "api_error": "Internal server error",
    "overloaded_error": "Overloaded",
}


@dataclass(kw_only=True, eq=False)
class ApiError(Exception):
    """What upstream answers instead of what was asked for. Not frozen: Python writes its traceback into it."""

    status: int
    type: str
    message: str
    code: str | None = None
    """``details.error_code``; upstream often gives none."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self, request_id: str) -> dict[str, Any]:
        """The JSON body, ``request_id`` included."""
        return error_body(self.type, self.message, request_id, self.code)


def error_body(type_: str, message: str, request_id: str, code: str | None = None) -> dict[str, Any]:
    """``{"type": "error", "error": {...}, "request_id": ...}``, as upstream writes it."""
    error: dict[str, Any] = {"type": type_, "message": message}
    if code:
        error["details"] = {"error_code": code}
    return {"type": "error", "error": error, "request_id": request_id}


def by_status(status: int, message: str = "", *, code: str | None = None, retry_after_s: float = 0) -> ApiError:
    """The error upstream sends with ``status``, with its usual message unless one is given."""
    type_ = ERROR_TYPE_BY_STATUS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    headers = {"retry-after": f"{retry_after_s:g}"} if retry_after_s else {}
    return ApiError(status=status, type=type_, message=message or MESSAGES[type_], code=code, headers=headers)


def invalid(message: str) -> ApiError:
    """400 ``invalid_request_error``."""
    return by_status(400, message)


def not_found(message: str) -> ApiError:
    """404 ``not_found_error``."""
    return by_status(404, message)
