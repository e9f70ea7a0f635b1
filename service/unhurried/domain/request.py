"""What a caller hands in, and what it must be to be accepted.

The envelope is decoded, ``params`` is not: its bytes are checked where they lie, stored, and later sent as they came.
What a batch or the API version forbids is refused here, because upstream would tell only after the whole batch ended
(https://platform.claude.com/docs/en/build-with-claude/batch-processing, read 2026-11).
"""

import re
from collections.abc import Container, Mapping, Sequence
from hashlib import sha256
from typing import Annotated, Any, Final

import msgspec

from unhurried.clock import Ms, after, parse_rfc3339, rfc3339
from unhurried.domain.states import RequestState

QUEUE_DEFAULT: Final = "default"
CUSTOM_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
QUEUE_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")
PULL_NAME: Final = re.compile(r"pull:[a-zA-Z0-9][a-zA-Z0-9_.-]{0,99}")
WEBHOOK_NAME: Final = re.compile(r"webhook:[a-zA-Z0-9][a-zA-Z0-9_.-]{0,99}")
VERSION: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
BETA: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,99}")
BETAS_MAX: Final = 20
IDEMPOTENCY_KEY_MAX: Final = 255
METADATA_BYTES_MAX: Final = 16_384
PRIORITY_MIN, PRIORITY_MAX = -9, 9
SAMPLING_REMOVED_SINCE: Final = "2026-10-21"
"""From this API version on, sampling parameters are rejected (reference of the version, read 2026-11)."""
WAIT_MAX_S: Final = 366 * 86_400.0


class Refusal(Exception):
    """A request that is not accepted. ``code`` is stable and for programs, the text is for people."""

    def __init__(self, code: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.field = field


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """One line of a bulk upload, or one JSON object: ``params`` and how it is to be handled.

    Its first two fields are those of a Message Batches create, so such a file can be handed in as it is.
    """

    params: msgspec.Raw
    custom_id: str | None = None
    queue: str | None = None
    deadline: str | None = None
    max_wait: Annotated[float, msgspec.Meta(gt=0, le=WAIT_MAX_S)] | None = None
    not_before: str | None = None
    priority: Annotated[int, msgspec.Meta(ge=PRIORITY_MIN, le=PRIORITY_MAX)] | None = None
    deliver_to: str | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"")
    idempotency_key: str | None = None
    anthropic_version: str | None = None
    anthropic_beta: str | list[str] | None = None


class Params(msgspec.Struct):
    """The few fields of ``params`` that decide about acceptance. Everything else passes through unread."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    max_tokens: int
    messages: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=100_000)]
    stream: bool | None = None
    speed: Any = None
    temperature: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    top_p: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    top_k: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What a request gets where its caller says nothing, and the limits it must keep."""

    queue: str = QUEUE_DEFAULT
    deadline_s: float = 86_400.0
    anthropic_version: str = SAMPLING_REMOVED_SINCE
    anthropic_beta: str = ""
    params_bytes_max: int = 32_000_000
    attempts_max: int = 3
    priority: int = 0
    deliver_to: str | None = None
    """None: the queue's own ``pull:NAME``."""
    webhooks: Container[str] = frozenset()
    """Names of the destinations that were added: the only ones besides ``pull:…`` that ``deliver_to`` may name."""


class NewRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that passed every check and waits to be stored. ``params`` are the caller's bytes."""

    id: str
    queue: str
    model: str
    anthropic_version: str
    anthropic_beta: str
    params: bytes
    digest: bytes
    priority: int
    accepted_at: Ms
    deadline_at: Ms
    not_before: Ms | None
    deliver_to: str
    custom_id: str | None
    idempotency_key: str | None
    metadata: bytes | None
    attempts_max: int
    peer_uid: int | None


class Accepted(msgspec.Struct, frozen=True):
    """The answer to a request: its id. ``duplicate`` when the same idempotency key had brought it before; ``state`` is
    None then if it was finished and has been deleted since."""

    id: str
    state: RequestState | None
    duplicate: bool = False

    @property
    def state_json(self) -> bytes:
        """Put together, not encoded: it is part of every answer to an accept."""
        return b'"%s"' % self.state.encode() if self.state is not None else b"null"


class KeyConflict(msgspec.Struct, frozen=True):
    """The idempotency key stands for another body; ``id`` is the request that has it."""

    id: str


_envelopes: Final = msgspec.json.Decoder(Envelope)
_params: Final = msgspec.json.Decoder(Params)
_anything: Final = msgspec.json.Decoder()
_NO_QUEUES: Final[Mapping[str, Defaults]] = {}


def accept(  # by name, each with a meaning of its own
    line: bytes,
    *,
    id: str,
    now: Ms,
    defaults: Defaults,
    queues: Mapping[str, Defaults] = _NO_QUEUES,
    peer_uid: int | None = None,
) -> NewRequest:
    """Check one envelope, JSON in UTF-8, and turn it into a request. Raises ``Refusal`` with the first thing wrong.

    ``queues``: of the queues that have settings of their own, what holds there instead of ``defaults``.
    """
    try:
        envelope = _envelopes.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(error, line) from None
    queue = envelope.queue if envelope.queue is not None else defaults.queue
    defaults = queues.get(queue, defaults)
    raw = bytes(envelope.params)
    if len(raw) > defaults.params_bytes_max:
        raise Refusal(
            "request_too_large",
            f"params are {len(raw):,} bytes, the limit is {defaults.params_bytes_max:,}",
            "params",
        )
    whole = decode_all(line)
    version = envelope.anthropic_version or defaults.anthropic_version
    if not VERSION.fullmatch(version):
        raise Refusal("invalid_request", f"anthropic_version {version!r} is not a date", "anthropic_version")
    params = check_params(raw, whole["params"], version)
    beta = defaults.anthropic_beta if envelope.anthropic_beta is None else betas(envelope.anthropic_beta)
    if not QUEUE_NAME.fullmatch(queue):
        raise Refusal("invalid_request", f"queue {queue[:80]!r} must match {QUEUE_NAME.pattern}", "queue")
    if envelope.custom_id is not None and not CUSTOM_ID.fullmatch(envelope.custom_id):
        raise Refusal(
            "invalid_request",
            f"custom_id has {len(envelope.custom_id)} characters; it must be 1 to 64 of a-z A-Z 0-9 _ -",
            "custom_id",
        )
    key = envelope.idempotency_key
    if key is not None:
        check_key(key)
    deadline_at, not_before = _times(envelope, now, defaults)
    deliver_to = defaults.deliver_to if envelope.deliver_to is None else envelope.deliver_to
    return NewRequest(
        id=id,
        queue=queue,
        model=params.model,
        anthropic_version=version,
        anthropic_beta=beta,
        params=raw,
        digest=digest_of(raw, version, beta),
        priority=defaults.priority if envelope.priority is None else envelope.priority,
        accepted_at=now,
        deadline_at=deadline_at,
        not_before=not_before,
        deliver_to=check_destination(deliver_to, queue, defaults.webhooks),
        custom_id=envelope.custom_id,
        idempotency_key=key,
        metadata=_metadata(bytes(envelope.metadata)),
        attempts_max=defaults.attempts_max,
        peer_uid=peer_uid,
    )


def check_key(key: str) -> None:
    """Refuse what is no idempotency key, wherever it stands: in the envelope or in a header."""
    if not (1 <= len(key) <= IDEMPOTENCY_KEY_MAX and key.isprintable()):
        says = f"an idempotency key must be 1 to {IDEMPOTENCY_KEY_MAX} printable characters"
        raise Refusal("invalid_request", says, "idempotency_key")


def digest_of(params: bytes, version: str, beta: str) -> bytes:
    """What an idempotency key compares: 32 bytes over the params as they came, the API version and the betas."""
    seal = sha256(params)
    seal.update(f"\n{version}\n{beta}".encode())
    return seal.digest()


def decode_all(raw: bytes) -> Any:
    """Refuse what the fast decoder lets pass inside skipped values, and upstream's parser would not.

    ``msgspec.Raw`` has checked the grammar; what it skips are the UTF-8 of strings, lone surrogates and the range of
    numbers (tried with 0.22). One such body would sink the whole batch that carries it. Decoding everything (3 us for
    2 KB) is faster than any search for these.
    """
    try:
        if not raw.isascii():
            raw.decode()
        return _anything.decode(raw)
    except msgspec.ValidationError as error:  # a number that no double can hold
        raise Refusal("invalid_json", f"the body is not valid JSON: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(error, raw) from None


def check_params(raw: bytes, decoded: Any, version: str) -> Params:
    """What a batch of this API version accepts, as far as it can be told without upstream."""
    try:
        params = _params.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refusal("invalid_params", f"params: {error}", "params") from None
    if params.max_tokens < 1:
        raise Refusal("invalid_params", "params: max_tokens must be at least 1 in a batch", "params.max_tokens")
    if params.stream:
        raise Refusal("invalid_params", "params: a batch cannot stream; leave `stream` out", "params.stream")
    if params.speed is not None:
        raise Refusal("invalid_params", "params: `speed` cannot be used in a batch; leave it out", "params.speed")
    if version >= SAMPLING_REMOVED_SINCE:
        _refuse_what_the_version_removed(params, decoded["messages"], version)
    return params


def _refuse_what_the_version_removed(params: Params, messages: Sequence[Any], version: str) -> None:
    if not params.temperature is params.top_p is params.top_k is msgspec.UNSET:
        name = next(name for name in ("temperature", "top_p", "top_k") if getattr(params, name) is not msgspec.UNSET)
        raise Refusal(
            "invalid_params",
            f"params: `{name}` is rejected by anthropic-version {version}; leave it out,"
            ' or send "anthropic_version": "2023-06-01" for a model that still takes it',
            f"params.{name}",
        )
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        for block in content if isinstance(content, list) else ():
            kind = block.get("type") if isinstance(block, dict) else None
            where = f"params.messages.{number}"
            if role == "assistant" and kind == "document":
                raise Refusal(
                    "invalid_params", f"{where}: anthropic-version {version} has no documents from the assistant", where
                )
            if role == "user" and kind == "text" and block.get("citations"):
                raise Refusal(
                    "invalid_params", f"{where}: anthropic-version {version} has no citations in user text", where
                )


def betas(given: str | list[str]) -> str:
    """The betas as one header value: sorted, without repeats, so that equal sets make equal groups."""
    names = given.split(",") if isinstance(given, str) else given
    names = [name.strip() for name in names if name.strip()]
    for name in names:
        if not BETA.fullmatch(name):
            raise Refusal("invalid_request", f"anthropic_beta {name[:80]!r} is not a beta name", "anthropic_beta")
    if len(set(names)) > BETAS_MAX:  # they travel in a header, and a batch that upstream cannot read comes back whole
        says = f"{len(set(names))} names in anthropic_beta; the limit is {BETAS_MAX}"
        raise Refusal("invalid_request", says, "anthropic_beta")
    return ",".join(sorted(set(names)))


def _times(envelope: Envelope, now: Ms, defaults: Defaults) -> tuple[Ms, Ms | None]:
    if envelope.deadline is not None and envelope.max_wait is not None:
        raise Refusal("invalid_request", "give a deadline or max_wait, not both", "max_wait")
    not_before = _moment(envelope.not_before, "not_before")
    if not_before is not None and not_before <= now:
        not_before = None
    if envelope.deadline is None:
        wait_s = envelope.max_wait if envelope.max_wait is not None else defaults.deadline_s
        start = now if envelope.max_wait is not None else not_before or now
        deadline_at = after(start, wait_s)
    else:
        moment = _moment(envelope.deadline, "deadline")
        assert moment is not None
        deadline_at = moment
    if deadline_at <= now:
        given = envelope.deadline or f"in {envelope.max_wait:g} s"
        raise Refusal("invalid_request", f"the deadline {given} lies in the past ({rfc3339(now)})", "deadline")
    if deadline_at > after(now, 2 * WAIT_MAX_S):
        raise Refusal("invalid_request", "the deadline lies more than two years ahead", "deadline")
    if not_before is not None and not_before >= deadline_at:
        raise Refusal("invalid_request", "not_before must come before the deadline", "not_before")
    return deadline_at, not_before


def _moment(text: str | None, field: str) -> Ms | None:
    if text is None:
        return None
    try:
        return parse_rfc3339(text)
    except (ValueError, OverflowError):
        raise Refusal(
            "invalid_request", f"{field} {text[:60]!r} is not a time such as 2026-11-22T08:00:00Z", field
        ) from None


def check_destination(given: str | None, queue: str, webhooks: Container[str]) -> str:
    """The destination that a caller named, or the pull destination of the queue. Raises ``Refusal`` unless it is one
    to pull from, which comes into being by being named, or one of ``webhooks``."""
    if given is None:
        return f"pull:{queue}"
    if PULL_NAME.fullmatch(given) or given in webhooks:
        return given
    if WEBHOOK_NAME.fullmatch(given):
        says = f"there is no destination {given}; add it first: unhurried destinations add {given} URL"
    else:
        says = f"deliver_to {given[:80]!r} is not a destination; use pull:NAME, webhook:NAME or leave it out"
    raise Refusal("invalid_request", says, "deliver_to")


def _metadata(raw: bytes) -> bytes | None:
    if not raw or raw == b"null":
        return None
    if len(raw) > METADATA_BYTES_MAX:
        says = f"metadata has {len(raw):,} bytes, the limit is {METADATA_BYTES_MAX:,}"
        raise Refusal("invalid_request", says, "metadata")
    if raw[:1] != b"{":
        raise Refusal("invalid_request", "metadata must be a JSON object", "metadata")
    return raw


def _not_json(error: Exception, raw: bytes) -> Refusal:
    if isinstance(error, UnicodeDecodeError):
        return Refusal("invalid_json", f"the body is not UTF-8 at byte {error.start}")
    if isinstance(error, RecursionError):
        return Refusal("invalid_json", "the JSON is nested too deeply")
    if isinstance(error, msgspec.ValidationError):
        return Refusal("invalid_request", str(error))
    hint = "; is there a lone surrogate (\\ud800 to \\udfff) in a string?" if b"\\ud" in raw.lower() else ""
    return Refusal("invalid_json", f"the body is not valid JSON: {error}{hint}")
