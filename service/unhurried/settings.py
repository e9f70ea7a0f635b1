"""Every setting of the daemon: environment variables ``UNHURRIED_…``, one nested model per room, the unit in the name.

A room is handed its own part and never reads the environment. Credentials for Anthropic stay where the SDK looks for
them (``ANTHROPIC_API_KEY`` and so on); only their presence is checked here, because the SDK takes seconds to import.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from unhurried import failpoints

PREFIX: Final = "UNHURRIED_"
SYSTEM_RUNTIME, SYSTEM_STATE = Path("/run/unhurried"), Path("/var/lib/unhurried")
SIMULATOR_URL: Final = "http://127.0.0.1:8750"
ANTHROPIC_URL: Final = "https://api.anthropic.com"

Seconds = Annotated[float, Field(ge=0)]


class SettingsError(Exception):
    """The settings cannot be used; the text says which one and what to do. Never contains a secret."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UpstreamSettings(_Part):
    base_url: str | None = Field(
        None,
        description="Where the Messages API is; `unix:/path` for a socket. Else ANTHROPIC_BASE_URL, else Anthropic.",
    )
    simulator: bool = Field(
        False, description=f"The upstream is `unhurried simulate` (at {SIMULATOR_URL} unless base_url says otherwise)."
    )
    api_key: SecretStr | None = Field(None, description="Used instead of the credentials the SDK finds by itself.")
    anthropic_version: str = Field("2026-10-21", description="API version of requests that name none.")
    queue_requests_max: int = Field(
        200_000, ge=1, description="Requests that may wait upstream at once (the limit of your tier for batches)."
    )
    connect_timeout_s: Seconds = Field(5.0, description="For the connection to be made.")
    write_timeout_s: Seconds = Field(60.0, description="For one write of an upload.")
    answer_timeout_s: Seconds = Field(300.0, description="For the answer to a create, after its last byte was sent.")
    read_timeout_s: Seconds = Field(60.0, description="For any other answer, and between two reads of results.")


class IngestSettings(_Part):
    request_bytes_max: int = Field(32_000_000, ge=1_000, description="Largest params of one request, in bytes.")
    queue_requests_max: int = Field(5_000_000, ge=1, description="Open requests at which new ones are refused.")
    deadline_s: Seconds = Field(86_400.0, description="Deadline of a request that names none, from its acceptance.")
    attempts_max: int = Field(3, ge=1, le=100, description="Attempts a request has for outcomes worth repeating.")
    wait_max_s: Seconds = Field(3_600.0, description="Longest `?wait=`.")
    lease_s: Seconds = Field(60.0, description="Lease of pulled results that name none.")
    socket_mode: str = Field("0660", pattern=r"^0?[0-7]{3}$", description="Mode of the socket, octal.")


class FlusherSettings(_Part):
    linger_s: Seconds = Field(300.0, description="Longest wait of the oldest request before its group is sent.")
    batch_requests_max: int = Field(100_000, ge=1, le=100_000, description="Most requests in a batch.")
    batch_bytes_max: int = Field(256_000_000, ge=1_000, le=256_000_000, description="Largest body of a batch.")
    turnaround_s: Seconds = Field(3_600.0, description="Turnaround of a model until enough of its batches have ended.")
    deadline_margin_s: Seconds = Field(60.0, description="Spare time kept before a deadline.")
    deadline_classes_s: tuple[float, ...] = Field(
        (3_600.0, 21_600.0, 86_400.0), description="Bounds of the deadline classes; a batch never mixes two classes."
    )
    chunk_requests: int = Field(500, ge=1, le=10_000, description="Members added to a forming batch in one commit.")


class SubmissionSettings(_Part):
    settle_grace_s: Seconds = Field(60.0, description="Two listings so far apart must miss a batch to prove it absent.")
    settle_absent_s: Seconds | None = Field(
        None, description="Without proof that the list is fresh, give up after this long. Default: 15 × settle_grace_s."
    )
    pause_s: Seconds = Field(60.0, description="First pause after a refusal of the account; doubles.")
    unreachable_pause_s: Seconds = Field(1.0, description="First pause when upstream cannot be reached; doubles.")
    pause_max_s: Seconds = Field(900.0, description="Longest of these pauses.")
    sweep_s: Seconds = Field(3_600.0, description="Pause between two sweeps for late twins.")

    @property
    def absent_s(self) -> float:
        return self.settle_absent_s if self.settle_absent_s is not None else 15 * self.settle_grace_s


class PollerSettings(_Part):
    interval_min_s: Annotated[float, Field(gt=0)] = Field(10.0, description="Shortest pause between two looks.")
    interval_max_s: Annotated[float, Field(gt=0)] = Field(60.0, description="Longest pause between two looks.")
    not_found_grace_s: Seconds = Field(600.0, description="How long a 404 on a known batch means 'not yet'.")
    chunk_results: int = Field(250, ge=1, le=5_000, description="Results stored in one commit.")
    retry_pause_s: Seconds = Field(30.0, description="First pause before a request is sent again; doubles.")
    retry_pause_max_s: Seconds = Field(3_600.0, description="Longest pause before a request is sent again.")


def _network(text: str) -> str:
    return str(ip_network(text))


class DeliverySettings(_Part):
    allowed_networks: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        (), description='Private networks that webhooks may go to, as `["10.0.0.0/8"]`; plain `http` goes only there.'
    )
    allowed_socket_dirs: tuple[Annotated[str, Field(pattern="^/")], ...] | None = Field(
        None, description="Folders whose sockets webhooks may go to. Default: the one with the daemon's own socket."
    )
    ca_file: Path | None = Field(None, description="Certificates (PEM) to trust beside the system's.")
    concurrency: int = Field(8, ge=1, le=100, description="Webhooks under way at once for each destination.")
    connect_timeout_s: Annotated[float, Field(gt=0)] = Field(5.0, description="For the connection to be made.")
    timeout_s: Annotated[float, Field(gt=0, le=300)] = Field(
        20.0, description="For one attempt, the connection included."
    )
    result_bytes_max: int = Field(
        1_000_000, ge=0, description="Results above this are left out of a webhook, to be fetched; 0: all of them."
    )
    disable_after_s: Seconds = Field(
        432_000.0, description="A destination that has failed throughout for so long is disabled."
    )

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(ip_network(text) for text in self.allowed_networks)


class StoreSettings(_Part):
    writer_jobs_max: int = Field(
        20_000, ge=100, description="Writes that may wait; beyond it new work is told to come later."
    )
    writer_bytes_max: int = Field(256_000_000, ge=1_000_000, description="Bytes that may wait to be written.")
    disk_free_bytes_min: int = Field(
        100_000_000, ge=0, description="Free space of its disk below which new requests are refused."
    )
    reserve_bytes: int | None = Field(
        None,
        ge=0,
        description="Kept beside the database for the moment at which the disk is full. Default: 1.5 × wal_bytes_max.",
    )
    database_bytes_max: int | None = Field(
        None,
        ge=4_000_000,
        description="Largest size of the database; from 80 % of it on new requests are refused. Default: as it comes.",
    )
    check_s: Seconds = Field(
        1.0, description="Time for a check of the database at a start after a crash; 0: none. `doctor` checks it all."
    )
    readers: int = Field(3, ge=1, le=32, description="Reading connections.")
    idempotency_days: Annotated[float, Field(gt=0)] = Field(30.0, description="How long an idempotency key is kept.")
    wal_bytes_max: int = Field(64_000_000, ge=1_000_000, description="Size above which the write-ahead log is emptied.")

    @property
    def reserve(self) -> int:
        return self.reserve_bytes if self.reserve_bytes is not None else self.wal_bytes_max * 3 // 2


class KeeperSettings(_Part):
    retention_days: Annotated[float, Field(ge=0)] = Field(
        30.0, description="A request is kept for so long after its result was delivered; a queue may say otherwise."
    )
    unread_days: Annotated[float, Field(ge=0)] | None = Field(
        None, description="An undelivered result is kept for so long; a queue may say otherwise. Default: for ever."
    )
    events_days: Annotated[float, Field(ge=1)] = Field(90.0, description="Events are kept for so long.")
    vacuum_bytes: int = Field(
        64_000_000, ge=0, description="Free space in the database file from which on it is given back to the disk."
    )
    expiry_alarm_s: Seconds = Field(7_200.0, description="Alarm: time left before upstream gives a batch up.")
    vanish_alarm_days: Annotated[float, Field(ge=0)] = Field(
        26.0, description="Alarm: age of a batch whose results are not all stored; upstream keeps them for 29 days."
    )
    unread_alarm_s: Seconds = Field(86_400.0, description="Alarm: age of the oldest result that nobody has fetched.")
    paused_alarm_s: Seconds = Field(1_800.0, description="Alarm: how long the account has been paused.")
    queue_alarm_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="Alarm: share of the open requests that a queue, or all of them, may have."
    )
    disk_free_alarm_bytes: int = Field(1_000_000_000, ge=0, description="Alarm: free space on the database's disk.")
    database_alarm_bytes: int = Field(50_000_000_000, ge=0, description="Alarm: size of the database.")


class LogSettings(_Part):
    format: Literal["json", "console"] | None = Field(None, description="Else console on a terminal, json on a pipe.")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")


def default_socket() -> Path:
    return _place(SYSTEM_RUNTIME, "XDG_RUNTIME_DIR", Path(f"/tmp/unhurried-{os.getuid()}")) / "unhurried.sock"


def default_database() -> Path:
    return _place(SYSTEM_STATE, "XDG_STATE_HOME", Path.home() / ".local/state") / "unhurried.db"


def _place(system: Path, xdg: str, fallback: Path) -> Path:
    """The system's folder where it can be written (or made, by root), else the user's XDG one."""
    nearest = system if system.exists() else system.parent
    if os.access(nearest, os.W_OK | os.X_OK):
        return system
    if base := os.environ.get(xdg):
        return Path(base) / "unhurried"
    return fallback if fallback.name.startswith("unhurried") else fallback / "unhurried"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    socket: Path = Field(default_factory=default_socket, description="The Unix socket the daemon listens on.")
    database: Path = Field(default_factory=default_database, description="The SQLite file; on a local disk.")
    grace_s: Seconds = Field(25.0, description="Time to finish what is under way after SIGTERM.")
    upstream: UpstreamSettings = Field(default_factory=lambda: UpstreamSettings.model_validate({}))
    ingest: IngestSettings = Field(default_factory=lambda: IngestSettings.model_validate({}))
    flusher: FlusherSettings = Field(default_factory=lambda: FlusherSettings.model_validate({}))
    submission: SubmissionSettings = Field(default_factory=lambda: SubmissionSettings.model_validate({}))
    poller: PollerSettings = Field(default_factory=lambda: PollerSettings.model_validate({}))
    delivery: DeliverySettings = Field(default_factory=lambda: DeliverySettings.model_validate({}))
    store: StoreSettings = Field(default_factory=lambda: StoreSettings.model_validate({}))
    keeper: KeeperSettings = Field(default_factory=lambda: KeeperSettings.model_validate({}))
    log: LogSettings = Field(default_factory=lambda: LogSettings.model_validate({}))


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """The effective settings. Raises ``SettingsError`` for a misspelt variable or a value that cannot be used."""
    known = {variable for variable, _, _ in variables()}
    for name in sorted(environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known and not _is_no_setting(name):
            raise SettingsError(_misspelt(name, known))
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        variable = PREFIX + "__".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(f"{variable}: {said(first)}") from None
    except ValueError as error:  # pydantic-settings: a nested value that is no JSON
        raise SettingsError(str(error)) from None


def said(error: Mapping[str, Any]) -> str:
    """What pydantic says of one value, as a half sentence behind its name."""
    if error["type"] in ("enum", "literal_error"):
        return f"must be {error['ctx']['expected']}"
    text = str(error["msg"])
    should = "Input should "
    return f"must {text.removeprefix(should)}" if text.startswith(should) else text[:1].lower() + text[1:]


def variables() -> Iterator[tuple[str, Any, str]]:
    """Every variable with its default and its sentence, in the order of the models: for the docs and the checks."""
    for name, field in Settings.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, _Part):
            for inner, inner_field in part.model_fields.items():
                yield f"{PREFIX}{name}__{inner}".upper(), inner_field.default, inner_field.description or ""
        else:
            yield f"{PREFIX}{name}".upper(), field.default, field.description or ""


def base_url(settings: UpstreamSettings, environ: Mapping[str, str] = os.environ) -> str:
    """Where upstream is, without a trailing slash."""
    default = SIMULATOR_URL if settings.simulator else environ.get("ANTHROPIC_BASE_URL") or ANTHROPIC_URL
    return (settings.base_url or default).rstrip("/")


def require_upstream(settings: UpstreamSettings, environ: Mapping[str, str] = os.environ) -> None:
    """Raises ``SettingsError`` unless there is a credential, or the simulator was chosen in so many words."""
    if settings.simulator or settings.api_key is not None or _has_credential(environ):
        return
    raise SettingsError(
        "no upstream: set ANTHROPIC_API_KEY (or another credential that the anthropic SDK knows) to use Anthropic,"
        " or UNHURRIED_UPSTREAM__SIMULATOR=true to use a simulator started with `unhurried simulate`"
    )


def arm_failpoints(settings: UpstreamSettings, environ: Mapping[str, str] = os.environ) -> None:
    """Arm what a test asks for. Raises ``SettingsError`` for what is misspelt, and where the upstream is a real one."""
    try:
        failpoints.arm(environ.get(failpoints.VARIABLE))
    except failpoints.BadFailpoints as error:
        raise SettingsError(f"{failpoints.VARIABLE}: {error}") from None
    if failpoints.armed() and not settings.simulator:
        raise SettingsError(f"{failpoints.VARIABLE} is for tests: it needs UNHURRIED_UPSTREAM__SIMULATOR=true")


def _has_credential(environ: Mapping[str, str]) -> bool:
    """Whether the SDK (2.12) would find a credential, judged without importing it: keys, profile, workload identity."""
    if any(environ.get(name) for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE")):
        return True
    token = environ.get("ANTHROPIC_IDENTITY_TOKEN") or environ.get("ANTHROPIC_IDENTITY_TOKEN_FILE")
    if token and environ.get("ANTHROPIC_FEDERATION_RULE_ID") and environ.get("ANTHROPIC_ORGANIZATION_ID"):
        return True
    folder = Path(environ.get("ANTHROPIC_CONFIG_DIR") or Path.home() / ".config/anthropic")
    return (folder / "active_config").exists()


def _is_no_setting(name: str) -> bool:
    """Kubernetes adds such names to every pod beside a service that is called ``unhurried``; tests add one."""
    return name.upper() == failpoints.VARIABLE or bool(re.fullmatch(PREFIX + r"(PORT(_.*)?|SERVICE_.*)", name.upper()))


def _misspelt(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name.upper(), known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; `unhurried config` lists them all"
    return f"there is no setting {name}{hint}"
