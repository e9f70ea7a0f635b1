"""Which Unix sockets a webhook may go to."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.delivery.means import Mailer
from tests.upstream.server import answering, serving
from unhurried.domain.delivering import Delivered, Misconfigured, TryAgain

Make = Callable[..., Mailer]


def url(path: Path) -> str:
    return f"http+unix://{str(path).replace('/', '%2F')}/"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """A socket that takes connections and never answers."""
    made = []

    def listen(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        one = socket.socket(socket.AF_UNIX)
        one.bind(str(path))
        one.listen()
        made.append(one)
        return path

    yield listen
    for each in made:
        each.close()


async def test_a_folder_that_is_allowed(mailer: Make, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    async with serving(answering(200), unix=folder / "app.sock"):
        mail = mailer(allowed_socket_dirs=["/nonexistent", str(folder)])
        assert await mail.send(url(folder / "app.sock")) == Delivered(status=200)
        (folder / "link").symlink_to("app.sock")
        assert await mail.send(url(folder / "link")) == Delivered(status=200)


async def test_a_socket_elsewhere_is_refused(mailer: Make, tmp_path: Path, listener: Callable[[Path], Path]) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    outside = listener(tmp_path / "docker.sock")
    (folder / "link").symlink_to(outside)
    (folder / "up").symlink_to(tmp_path)
    for path in (outside, folder / "link", folder / ".." / "docker.sock", folder / "up" / "docker.sock"):
        outcome = await mailer(allowed_socket_dirs=[str(folder)]).send(url(path))
        assert isinstance(outcome, Misconfigured)
        assert f"lies outside of {folder}; UNHURRIED_DELIVERY__ALLOWED_SOCKET_DIRS" in outcome.detail


async def test_a_folder_whose_name_begins_alike_is_another(
    mailer: Make, tmp_path: Path, listener: Callable[[Path], Path]
) -> None:
    path = listener(tmp_path / "shared-not" / "app.sock")
    assert isinstance(await mailer(allowed_socket_dirs=[str(tmp_path / "shared")]).send(url(path)), Misconfigured)


async def test_no_folder_allows_no_socket(mailer: Make, tmp_path: Path, listener: Callable[[Path], Path]) -> None:
    path = listener(tmp_path / "app.sock")
    outcome = await mailer(allowed_socket_dirs=[]).send(url(path))
    assert isinstance(outcome, Misconfigured)
    assert "outside of no folder" in outcome.detail


async def test_the_daemon_does_not_send_to_itself(
    mailer: Make, tmp_path: Path, listener: Callable[[Path], Path]
) -> None:
    own = listener(tmp_path / "unhurried.sock")
    (tmp_path / "link").symlink_to(own)
    (tmp_path / "second").hardlink_to(own)
    for name in ("unhurried.sock", "link", "second"):
        outcome = await mailer().send(url(tmp_path / name))
        assert outcome == Misconfigured(detail=f"{tmp_path / name} is the daemon's own socket")


async def test_a_file_is_no_socket(mailer: Make, tmp_path: Path) -> None:
    (tmp_path / "app.sock").write_text("")
    assert await mailer().send(url(tmp_path / "app.sock")) == Misconfigured(detail=f"{tmp_path}/app.sock is no socket")


async def test_an_application_that_is_down_is_tried_again(
    mailer: Make, tmp_path: Path, listener: Callable[[Path], Path]
) -> None:
    outcome = await mailer().send(url(tmp_path / "app.sock"))
    assert isinstance(outcome, TryAgain)
    assert "No such file" in outcome.detail
    left_over = socket.socket(socket.AF_UNIX)
    left_over.bind(str(tmp_path / "left.sock"))
    left_over.close()
    outcome = await mailer().send(url(tmp_path / "left.sock"))
    assert isinstance(outcome, TryAgain)
    assert "refused" in outcome.detail


async def test_an_application_that_is_silent(mailer: Make, tmp_path: Path, listener: Callable[[Path], Path]) -> None:
    path = listener(tmp_path / "app.sock")
    outcome = await mailer(timeout_s=0.3).send(url(path))
    assert outcome == TryAgain(detail=f"http+unix:{path}: no answer within 0.3 s")
