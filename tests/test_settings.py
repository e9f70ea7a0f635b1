"""Every setting, the variables that set them, and what is said about a mistake."""

import os
from pathlib import Path

import pytest

from unhurried.settings import (
    ANTHROPIC_URL,
    SIMULATOR_URL,
    Settings,
    SettingsError,
    UpstreamSettings,
    base_url,
    load,
    require_upstream,
    variables,
)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own environment."""
    for name in list(os.environ):
        if name.startswith(("UNHURRIED_", "ANTHROPIC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def loaded(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load()


def test_the_variables_that_scripts_rely_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """These names are what an installation sets: README.md has them, and renaming one breaks it."""
    settings = loaded(
        monkeypatch,
        UNHURRIED_SOCKET="/tmp/s",
        UNHURRIED_DATABASE="/tmp/d",
        UNHURRIED_UPSTREAM__BASE_URL="http://up/",
        UNHURRIED_FLUSHER__LINGER_S="1.5",
        UNHURRIED_FLUSHER__BATCH_REQUESTS_MAX="7",
        UNHURRIED_POLLER__INTERVAL_MIN_S="0.1",
        UNHURRIED_POLLER__INTERVAL_MAX_S="0.2",
        UNHURRIED_SUBMISSION__SETTLE_GRACE_S="3",
        UNHURRIED_LOG__FORMAT="json",
    )
    assert (settings.socket, settings.database) == (Path("/tmp/s"), Path("/tmp/d"))
    assert base_url(settings.upstream) == "http://up"
    assert (settings.flusher.linger_s, settings.flusher.batch_requests_max) == (1.5, 7)
    assert (settings.poller.interval_min_s, settings.poller.interval_max_s) == (0.1, 0.2)
    assert (settings.submission.settle_grace_s, settings.submission.absent_s) == (3, 45)
    assert settings.log.format == "json"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("UNHURRIED_SOKET", "UNHURRIED_SOCKET"),
        ("UNHURRIED_FLUSHER__LINGER", "UNHURRIED_FLUSHER__LINGER_S"),
        ("unhurried_flusher__lingerx_s", "UNHURRIED_FLUSHER__LINGER_S"),
        ("UNHURRIED_QQQQQQQQQQ", "unhurried config"),
    ],
)
def test_a_misspelt_variable_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        loaded(monkeypatch, **{name: "1"})


@pytest.mark.parametrize(
    "name", ["UNHURRIED_PORT", "UNHURRIED_PORT_80_TCP_ADDR", "UNHURRIED_SERVICE_HOST", "UNHURRIED_SERVICE_PORT_HTTP"]
)
def test_what_kubernetes_adds_is_no_mistake(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    loaded(monkeypatch, **{name: "tcp://10.0.0.1:80"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UNHURRIED_FLUSHER__LINGER_S", "soon"),
        ("UNHURRIED_FLUSHER__LINGER_S", "-1"),
        ("UNHURRIED_FLUSHER__BATCH_REQUESTS_MAX", "100001"),
        ("UNHURRIED_FLUSHER__BATCH_BYTES_MAX", "256000001"),
        ("UNHURRIED_POLLER__INTERVAL_MIN_S", "0"),
        ("UNHURRIED_LOG__FORMAT", "xml"),
        ("UNHURRIED_INGEST__SOCKET_MODE", "rw-rw----"),
    ],
)
def test_a_value_that_cannot_be_used_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: "):
        loaded(monkeypatch, **{name: value})


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(monkeypatch, UNHURRIED_UPSTREAM__API_KEY="sk-s3cret")
    assert "s3cret" not in repr(settings) + str(settings.model_dump())
    assert settings.upstream.api_key is not None
    assert settings.upstream.api_key.get_secret_value() == "sk-s3cret"


def test_every_variable_has_a_sentence() -> None:
    listed = list(variables())
    assert len({name for name, _, _ in listed}) == len(listed) > 30
    for name, _, sentence in listed:
        assert sentence.endswith("."), name


def test_every_number_says_its_unit() -> None:
    """The unit is the last word of the name; the few plain numbers are counts."""
    units = (
        "_s", "_max", "_requests", "_results", "_days", "mode", "version", "readers", "concurrency", "_jobs_max",
        "_bytes_max", "_bytes", "_bytes_min", "_share",
    )  # fmt: skip
    for name, default, _ in variables():
        if isinstance(default, (int, float)) and not isinstance(default, bool):
            assert name.lower().endswith(units), name


@pytest.mark.parametrize(
    ("settings", "environ", "url"),
    [
        ({}, {}, ANTHROPIC_URL),
        ({}, {"ANTHROPIC_BASE_URL": "http://proxy/"}, "http://proxy"),
        ({"simulator": True}, {"ANTHROPIC_BASE_URL": "http://proxy/"}, SIMULATOR_URL),
        ({"base_url": "unix:/x.sock", "simulator": True}, {}, "unix:/x.sock"),
    ],
)
def test_where_upstream_is(settings: dict[str, object], environ: dict[str, str], url: str) -> None:
    assert base_url(UpstreamSettings.model_validate(settings), environ) == url


@pytest.mark.parametrize(
    ("settings", "environ"),
    [
        ({"simulator": True}, {}),
        ({"api_key": "k"}, {}),
        ({}, {"ANTHROPIC_API_KEY": "k"}),
        ({}, {"ANTHROPIC_AUTH_TOKEN": "k"}),
    ],
)
def test_a_credential_or_the_simulator_is_enough(settings: dict[str, object], environ: dict[str, str]) -> None:
    require_upstream(UpstreamSettings.model_validate(settings), environ)


@pytest.mark.parametrize("environ", [{}, {"ANTHROPIC_API_KEY": ""}, {"ANTHROPIC_IDENTITY_TOKEN": "t"}])
def test_the_simulator_is_never_chosen_by_the_absence_of_a_key(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="ANTHROPIC_API_KEY"):
        require_upstream(UpstreamSettings.model_validate({}), environ)


def test_the_files_lie_in_the_users_folders_without_rights_on_the_systems(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    settings = load()
    assert settings.socket == Path(f"/tmp/unhurried-{os.getuid()}/unhurried.sock")
    assert settings.database == tmp_path / ".local/state/unhurried/unhurried.db"
    settings = loaded(monkeypatch, XDG_RUNTIME_DIR="/run/user/7", XDG_STATE_HOME="/state")
    assert settings.socket == Path("/run/user/7/unhurried/unhurried.sock")
    assert settings.database == Path("/state/unhurried/unhurried.db")


def test_the_files_lie_in_the_systems_folders_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: True)
    settings = load()
    assert settings.socket == Path("/run/unhurried/unhurried.sock")
    assert settings.database == Path("/var/lib/unhurried/unhurried.db")


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("UNHURRIED_LOG__LEVEL", "loud", "UNHURRIED_LOG__LEVEL: must be 'debug', 'info', 'warning' or 'error'"),
        ("UNHURRIED_FLUSHER__LINGER_S", "-1", "UNHURRIED_FLUSHER__LINGER_S: must be greater than or equal to 0"),
        ("UNHURRIED_FLUSHER__LINGER_S", "soon", "UNHURRIED_FLUSHER__LINGER_S: must be a valid number"),
    ],
)
def test_what_is_wrong_with_a_setting_is_said_in_our_words(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        load()
    assert says in str(refused.value)
