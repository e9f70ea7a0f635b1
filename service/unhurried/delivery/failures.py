"""What keeps a webhook from being delivered: our own refusals, and all that a receiver or the network can do."""

import httpcore2

TEXT_CHARS_MAX = 300

FAILURES = (
    httpcore2.NetworkError,
    httpcore2.TimeoutException,
    httpcore2.ProtocolError,  # an answer that is no HTTP
    httpcore2.ConnectionNotAvailable,
    OSError,  # no such host; no such socket
)


class CannotSend(Exception):
    """Nothing was sent, for a reason on this side. ``detail`` is safe to show and says what to change."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


def describe(error: BaseException) -> str:
    """The failure in a few words: ``ConnectError: [Errno 111] Connection refused``."""
    text = str(_deepest_os_error(error) or error)  # "All connection attempts failed" hides why
    name = type(error).__name__
    return f"{name}: {text}"[:TEXT_CHARS_MAX] if text else name


def _deepest_os_error(error: BaseException) -> OSError | None:
    found = None
    step: BaseException | None = error
    while step is not None:
        if isinstance(step, OSError) and step.strerror:
            found = step
        step = step.__cause__ or step.__context__
    return found
