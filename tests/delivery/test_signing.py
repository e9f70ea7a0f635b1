"""Secrets and signatures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import structlog

from tests.delivery.means import NEW, OLD
from unhurried.clock import Ms
from unhurried.delivery.failures import CannotSend
from unhurried.delivery.signing import Signer
from unhurried.domain.delivering import SecretRef

A, B = SecretRef("env", "A"), SecretRef("env", "B")
NOW = Ms(1_795_334_400_000)


def signatures(signer: Signer, *refs: SecretRef) -> list[str]:
    return signer.headers("id", NOW, b"{}", refs)["webhook-signature"].split(" ")


def in_file(path: Path, text: str) -> SecretRef:
    path.write_text(text)
    return SecretRef("file", str(path))


def test_the_vector_of_the_specification(tmp_path: Path) -> None:
    """From the tests of the reference libraries, github.com/standard-webhooks/standard-webhooks, read 2026-11."""
    signer = Signer({"A": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, tmp_path / "db")
    assert signer.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", Ms(1_614_265_330_999), b'{"test": 2432232314}', [A]) == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    """Rotation needs no restart; a mounted secret is replaced by a link to another file, an env file in place."""
    signer = Signer({"A": OLD, "B": NEW}, tmp_path / "db")
    (old,), (new,) = signatures(signer, A), signatures(signer, B)
    ref = in_file(tmp_path / "secret", OLD + "\n")
    assert signatures(signer, ref) == [old]
    Path(ref.name).write_text(f" {NEW.rstrip('=')}\r\n")  # blanks around it and missing padding are forgiven
    assert signatures(signer, ref) == [new]
    assert signatures(signer, ref, A) == [new, old]


def test_one_secret_of_two_is_enough_and_the_other_is_told_of_once(tmp_path: Path) -> None:
    environ = {"A": OLD}
    signer = Signer(environ, tmp_path / "db")
    with structlog.testing.capture_logs() as logs:
        assert signatures(signer, B, A) == signatures(signer, A)
        signatures(signer, B, A)
    assert logs == [
        {
            "event": "webhook.secret_unreadable",
            "log_level": "warning",
            "secret": "env:B",
            "why": "the secret env:B is not set in the daemon's environment",
        }
    ]
    environ["B"] = NEW
    assert len(signatures(signer, B, A)) == 2
    del environ["B"]
    with structlog.testing.capture_logs() as logs:
        signatures(signer, B, A)
    assert len(logs) == 1


def test_without_any_every_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(CannotSend, match=r"env:A is not set.*; the secret env:B is not set"):
        signatures(Signer({}, tmp_path / "db"), A, B)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not set"),
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "does not begin with whsec_"),
        ("WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "does not begin with whsec_"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa!!", "not base64"),
        ("whsec_MfKQ9r8GKYqrTwj UPD8ILPZIo2LaLaSw", "not base64"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwé", "not base64"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwA", "not base64"),
        ("whsec_MfKQ", "3 bytes"),
        ("whsec_" + "MfKQ" * 22, "66 bytes"),
        ("whsec_", "0 bytes"),
    ],
)
def test_a_secret_that_is_none_is_refused_without_being_shown(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(CannotSend, match=says) as refused:
        signatures(Signer({"A": text}, tmp_path / "db"), A)
    assert "MfKQ" not in refused.value.detail
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path) -> None:
    signer = Signer({}, tmp_path / "db")
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    for name, says in {
        "nowhere": "No such file",
        ".": "no file of at most",
        "pipe": "no file of at most",
        "/dev/zero": "no file of at most",
        "large": "no file of at most",
        "binary": "does not begin with whsec_",
    }.items():
        (tmp_path / "large").write_bytes(b"x" * 1_001)
        (tmp_path / "binary").write_bytes(b"\xff" * 30)
        with pytest.raises(CannotSend, match=says):
            signatures(signer, SecretRef("file", str(tmp_path / name)))


@pytest.mark.parametrize("ending", ["", "-wal", "-shm", "-journal", ".lock"])
@pytest.mark.parametrize("how", ["itself", "link", "second name"])
def test_a_file_of_the_database_is_not_even_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, how: str
) -> None:
    """Closing it again would drop the locks that SQLite holds on it in this process."""
    ours = tmp_path / f"unhurried.db{ending}"
    ours.write_text(OLD)
    named = tmp_path / "secret"
    if how == "link":
        named.symlink_to(ours)
    elif how == "second name":
        named.hardlink_to(ours)
    else:
        named = ours

    def opened(*_: object) -> int:
        raise AssertionError("opened")

    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(CannotSend, match="a file of the daemon's own"):
        signatures(Signer({}, tmp_path / "unhurried.db"), SecretRef("file", str(named)))
