"""Every exception of the SDK and of what lies below it, read in one place."""

import anthropic
import httpx2

from unhurried.upstream.errors import TEXT_CHARS_MAX, UpstreamTrouble

FAILURES = (anthropic.AnthropicError, httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL)
"""All that a call may raise for reasons outside this process. An answer that is cut raises bare ``httpx2`` errors."""

_NO_CONNECTION = (
    httpx2.ConnectError,  # refused, no such host, TLS
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,  # the tunnel was not opened
    httpx2.UnsupportedProtocol,
    httpx2.InvalidURL,
)


def is_unconnected(error: BaseException) -> bool:
    """Whether there never was a connection to upstream on which a byte of the request could have travelled."""
    return isinstance(_cause(error), _NO_CONNECTION)


def describe(error: BaseException) -> str:
    """The failure in a few words: ``ConnectError: [Errno 111] Connection refused``."""
    cause = _cause(error)
    connecting = isinstance(cause, httpx2.HTTPError)  # "All connection attempts failed" hides why
    text = str((_deepest_os_error(cause) if connecting else None) or cause)
    name = type(cause).__name__
    return f"{name}: {text}"[:TEXT_CHARS_MAX] if text else name


def trouble(error: BaseException, call: str) -> UpstreamTrouble:
    """The exception for a call that got no answer, or only a part of one."""
    return UpstreamTrouble(f"{call}: {describe(error)}", reachable=not is_unconnected(error))


def _cause(error: BaseException) -> BaseException:
    """What the SDK wrapped. Its own errors (no token to be had) are not wrapped."""
    return error.__cause__ or error if isinstance(error, anthropic.APIConnectionError) else error


def _deepest_os_error(error: BaseException) -> OSError | None:
    found = None
    step: BaseException | None = error
    while step is not None:
        if isinstance(step, BaseExceptionGroup):
            step = step.exceptions[0]  # one for each address tried
        if isinstance(step, OSError) and step.strerror:
            found = step
        step = step.__cause__ or step.__context__
    return found
