"""Cuts the body of a create into its requests while it arrives, keeping of each only an ``Item``.

The body is ``{"requests":[{"custom_id":…,"params":…},…]}``. Windows of it are decoded in one call each; the cut between
two windows is guessed from the text and proved by the decoding: up to a comma that stands inside a string or an object
no prefix is well-formed. Only when the guess fails, the brackets are counted.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

from unhurried.simulator import params, prices
from unhurried.simulator.errors import ApiError, by_status, invalid
from unhurried.simulator.outcomes import Item, Plan, errored
from unhurried.simulator.tally import Tally

REQUESTS_MAX: Final = 100_000
BODY_BYTES_MAX: Final = 256_000_000
"""Upstream says 256 MB; the smaller reading of it."""
_SPACES_MAX: Final = 64
"""White space that is looked through before a key; more is left to the counting of brackets."""
WINDOW_BYTES: Final = 256 * 1024
"""One window is a few milliseconds of the event loop."""

_HEAD: Final = re.compile(rb'\s*\{\s*"requests"\s*:\s*\[\s*')
_HEAD_BYTES_MAX: Final = 256
_TAIL: Final = re.compile(rb"\s*\]\s*\}\s*\Z")
_FIRST_KEYS: Final = (b'"custom_id"', b'"params"')
"""What a request begins with, the likelier first."""
_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]', re.DOTALL)
_CUSTOM_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}").fullmatch


class _Request(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    custom_id: str
    params: msgspec.Raw


_decode_requests = msgspec.json.Decoder(list[_Request]).decode
_decode_raw = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_request = msgspec.json.Decoder(_Request).decode


class Intake:
    """One create's body on its way in. A body that is refused is still read to its end, as upstream does."""

    def __init__(self, *, version: str, plan: Plan, check_params: bool, answer_tokens: tuple[int, int]) -> None:
        """``check_params`` refuses the whole create for bad params, which upstream is not known to do.

        ``answer_tokens`` are the fewest and the most output tokens of an answer.
        """
        self.items: list[Item] = []
        self.tally = Tally()
        self.body_bytes = 0
        self.refusal: ApiError | None = None
        self.longest_s = 0.0
        """The longest turnaround of the models seen."""
        self._sha256 = hashlib.sha256()
        self._version = version
        self._plan = plan
        self._check_params = check_params
        self._fewest, most = answer_tokens
        self._spread = most - self._fewest + 1
        self._custom_ids: set[str] = set()
        self._models: dict[str, tuple[str, float]] = {}
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._window_bytes = WINDOW_BYTES
        self._inside = False

    @property
    def body_sha256(self) -> str:
        """Over the bytes received so far, in hexadecimal."""
        return self._sha256.hexdigest()

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the body. Raises ``ApiError`` only for 413, which does not wait for the end."""
        self._sha256.update(chunk)
        self.body_bytes += len(chunk)
        if self.body_bytes > BODY_BYTES_MAX:
            raise by_status(413)
        if self.refusal is not None:
            return
        self._pending.append(chunk)
        self._pending_bytes += len(chunk)
        if self._pending_bytes >= self._window_bytes:
            self._guarded(last=False)

    def finish(self) -> None:
        """The body is complete. Raises ``ApiError`` when upstream would refuse it."""
        if self.refusal is None:
            self._guarded(last=True)
        self._custom_ids = set()
        if self.refusal is not None:
            raise self.refusal
        if not self.items:
            raise invalid("requests: List should have at least 1 item after validation, not 0")

    def _guarded(self, *, last: bool) -> None:
        try:
            self._take_window(last=last)
        except ApiError as refusal:
            self.refusal = refusal
            self._pending.clear()
            self.items.clear()

    def _take_window(self, *, last: bool) -> None:
        window = b"".join(self._pending)
        if not self._inside:
            window = self._without_head(window)
        if last:
            end = _TAIL.search(window, max(0, len(window) - _HEAD_BYTES_MAX))
            if end is None:
                raise _explain_tail(window)
            self._take(window[: end.start()])
            window = b""
        elif (cut := self._cut(window)) > 0:
            window = window[cut + 1 :]
            self._window_bytes = WINDOW_BYTES
        else:
            self._window_bytes = 2 * len(window)  # doubling keeps one giant request linear
        self._pending = [window]
        self._pending_bytes = len(window)

    def _without_head(self, window: bytes) -> bytes:
        head = _HEAD.match(window)
        if head is None:
            raise _explain_head(window)
        self._inside = True
        return window[head.end() :]

    def _cut(self, window: bytes) -> int:
        """Take the requests of ``window`` that are complete; returns where the comma after them stands, or 0."""
        for key in _FIRST_KEYS:
            cut = _comma_before(window, window.rfind(key))
            if cut <= 0:
                continue
            try:
                self._take(window[:cut])
            except _NotRequests:
                pass  # the guess fell inside a nested object
            else:
                return cut
        cut = _last_comma_by_brackets(window)
        if cut > 0:
            self._take(window[:cut])
        return cut

    def _take(self, elements: bytes) -> None:
        """Take ``elements``, requests with commas between them. Raises ``_NotRequests`` when they are not JSON."""
        try:
            requests = _decode_requests(b"[" + elements + b"]")
        except msgspec.ValidationError:
            raise self._explain_requests(elements) from None
        except msgspec.DecodeError as error:
            raise _NotRequests.because(error) from None
        first = len(self.items)
        self._take_custom_ids([request.custom_id for request in requests])
        for index, request in enumerate(requests, start=first):
            item = self._item(index, request.custom_id, request.params)
            self.items.append(item)
            self.tally.add(item, item.outcome)

    def _take_custom_ids(self, custom_ids: list[str]) -> None:
        """Check the custom_ids of one window. Raises ``ApiError`` naming the first request that is wrong."""
        first = len(self.items)
        for index, custom_id in enumerate(custom_ids, start=first):
            if _CUSTOM_ID(custom_id) is None:
                raise invalid(f"requests.{index}.custom_id: {_why_not(custom_id)}")
            if custom_id in self._custom_ids:
                raise invalid(f"requests.{index}.custom_id: {custom_id!r} is not unique within the batch")
            self._custom_ids.add(custom_id)
        if first + len(custom_ids) > REQUESTS_MAX:
            raise invalid(f"requests: List should have at most {REQUESTS_MAX} items after validation")

    def _item(self, index: int, custom_id: str, raw: bytes) -> Item:
        read = params.read(raw, version=self._version, in_batch=True)
        model, turnaround_s = self._models.get(read.model) or self._new_model(read.model)
        digest = hashlib.sha256(raw).digest()
        finishes_s, outcome = self._plan.end(index, model, turnaround_s, digest)
        if read.fault is not None:
            if self._check_params:
                raise invalid(f"requests.{index}.params.{read.fault[1]}")
            outcome = errored(*read.fault)
        output_tokens = self._fewest + (digest[0] << 8 | digest[1]) % self._spread
        if output_tokens > read.max_tokens or outcome.stop_reason == "max_tokens":
            output_tokens = read.max_tokens
        return Item(custom_id, model, prices.tokens(len(raw)), output_tokens, digest, read.excerpt, finishes_s, outcome)

    def _new_model(self, model: str) -> tuple[str, float]:
        """(the one string for all requests of ``model``, its turnaround), looked up once per model."""
        turnaround_s = self._plan.turnaround_s(model)
        self.longest_s = max(self.longest_s, turnaround_s)
        return self._models.setdefault(model, (model, turnaround_s))

    def _explain_requests(self, elements: bytes) -> ApiError:
        """Find the request whose envelope is wrong; those before it are well."""
        try:
            raws = _decode_raw(b"[" + elements + b"]")
        except msgspec.DecodeError as error:
            return _NotRequests.because(error)
        for n, raw in enumerate(raws, start=len(self.items)):
            try:
                _decode_request(raw)
            except msgspec.ValidationError as error:
                return invalid(f"requests.{n}{_field_of(str(error))}")
        raise AssertionError("a window was refused, but none of its requests")


class _NotRequests(ApiError):
    """What was taken for a run of requests is no JSON."""

    @classmethod
    def because(cls, error: msgspec.DecodeError) -> _NotRequests:
        """The 400 for a body that msgspec could not read; a body cut short is told in upstream's words."""
        why = "unexpected end of input" if "truncated" in str(error) else str(error)
        return cls(status=400, type="invalid_request_error", message=f"request body is not valid JSON: {why}")


def _comma_before(window: bytes, key: int) -> int:
    """Where the comma stands that separates the request whose first key is at ``key`` from the one before, or 0."""
    before = window[max(0, key - _SPACES_MAX) : max(0, key)].rstrip()
    if not before.endswith(b"{"):
        return 0
    comma = window.rfind(b",", max(0, key - _SPACES_MAX), key)
    return comma if comma > 0 and not window[comma + 1 : key].replace(b"{", b"", 1).strip() else 0


def _last_comma_by_brackets(window: bytes) -> int:
    """Where the comma after the last complete request of ``window`` that has a successor stands, or 0."""
    depth = 0
    end = 0
    cut = 0
    for token in _TOKEN.finditer(window):
        mark = token[0]
        if mark in (b"{", b"["):
            if depth == 0 and end:
                cut = window.find(b",", end, token.start())
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                end = token.end()
    return max(cut, 0)


def _why_not(custom_id: str) -> str:
    if len(custom_id) > 64:
        return "String should have at most 64 characters"
    if not custom_id:
        return "String should have at least 1 character"
    return "String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"


def _field_of(error: str) -> str:
    """``.custom_id: Field required`` from msgspec's words about one request."""
    what, _, where = error.partition(" - at `$")
    path = where.rstrip("`")
    if what.startswith("Object missing required field `"):
        return f"{path}.{what.split('`')[1]}: Field required"
    if what.startswith("Object contains unknown field `"):
        return f"{path}.{what.split('`')[1]}: Extra inputs are not permitted"
    return f"{path}: {what}"


def _explain_head(body: bytes) -> ApiError:
    """Why ``body``, or its first window, does not begin with its requests."""
    if len(body) < WINDOW_BYTES and (broken := _not_json(body)) is not None:
        return broken
    return invalid("requests: Field required (the simulator wants it to be the first field)")


def _explain_tail(rest: bytes) -> ApiError:
    """Why ``rest``, which begins with a request, does not end as a body must."""
    broken = _not_json(b'{"requests":[' + rest)
    return broken if broken is not None else invalid("requests: no other fields are permitted beside it")


def _not_json(body: bytes) -> ApiError | None:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except msgspec.DecodeError as error:
        return _NotRequests.because(error)
    return None
