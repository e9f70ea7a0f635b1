"""What is installed is what is in the tree, and it finds its own files. Builds and installs without a network."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.packaging.tree import PACKAGE, ROOT, files
from unhurried import __version__

WANTED_SUFFIXES = {".py", ".sql", ".jsonl", ".typed"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the tree."""
    return _build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment with the wheel in it; its dependencies are those of the running environment."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False)
    python = str(folder / "bin/python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    _run([*pip, "install", "-q", "--no-index", "--no-deps", str(wheel)], folder)
    scheme = {"base": str(folder), "platbase": str(folder)}
    borrowed = Path(sysconfig.get_path("purelib", "venv", vars=scheme)) / "borrowed.pth"
    borrowed.write_text(sysconfig.get_path("purelib") + "\n", "utf-8")  # after its own, so ours cannot win
    return folder


def test_the_wheel_holds_the_package_and_the_migrations_and_nothing_else(wheel: Path) -> None:
    wanted = {f"unhurried/{path.relative_to(PACKAGE)}" for path in files(PACKAGE)}
    wanted |= {f"unhurried/{path.relative_to(ROOT)}" for path in files(ROOT / "migrations")}
    held = {name for name in _contents(wheel) if ".dist-info/" not in name}
    assert held == wanted
    assert {Path(name).suffix for name in held} <= WANTED_SUFFIXES


def test_the_sdist_is_complete(wheel: Path, tmp_path: Path) -> None:
    """A wheel built from it is the same, and the tests and the tools that they need are in it."""
    sdist = _build("sdist", ROOT, tmp_path)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    tree = tmp_path / sdist.name.removesuffix(".tar.gz")
    assert _contents(_build("wheel", tree, tmp_path / "again")) == _contents(wheel)
    for name in ("dev", "README.md", "requirements/dev.txt", "tests/packaging/test_wheel.py"):
        assert (tree / name).read_bytes() == (ROOT / name).read_bytes()
    assert os.access(tree / "dev", os.X_OK)


def test_the_image_makes_the_same_wheel_from_what_it_is_given(wheel: Path, tmp_path: Path) -> None:
    """The ``.dockerignore`` shuts out all but what it names: what is forgotten there is not in the image."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    given = [ROOT / rule[1:] for rule in rules if rule.startswith("!")]
    for source in (file for path in given for file in (files(path) if path.is_dir() else [path])):
        target = tmp_path / "tree" / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    assert _contents(_build("wheel", tmp_path / "tree", tmp_path / "made")) == _contents(wheel)
    wanted = set(re.findall(r"-r (requirements/\S+)", (ROOT / "Dockerfile").read_text()))
    assert wanted == {str(path.relative_to(ROOT)) for path in given if path.parent.name == "requirements"}


@pytest.mark.parametrize("command", [["unhurried"], ["python", "-m", "unhurried"]], ids=" ".join)
def test_the_installed_command_says_its_version(installed: Path, command: list[str]) -> None:
    program, *arguments = command
    assert _run([str(installed / "bin" / program), *arguments, "--version"], installed) == f"unhurried {__version__}\n"


def test_the_installed_package_finds_its_own_migrations(installed: Path) -> None:
    found = _python(
        installed,
        "import json, unhurried; from unhurried.store.sqlite.migrate import available;"
        "print(json.dumps([unhurried.__file__, [[m.version, m.sql] for m in available()]]))",
    )
    where, migrations = json.loads(found)
    assert Path(where).is_relative_to(installed)
    assert [text for _, text in migrations] == [path.read_text("utf-8") for path in files(ROOT / "migrations/sqlite")]
    assert [version for version, _ in migrations] == list(range(1, len(migrations) + 1))


def test_the_installed_samples_are_requests_of_the_batches_api(installed: Path) -> None:
    listed = _python(
        installed,
        "from importlib.resources import files\nfor f in (files('unhurried') / 'samples').iterdir(): print(f)",
    )
    samples = [Path(line) for line in listed.splitlines()]
    assert samples
    for sample in samples:
        requests = [json.loads(line) for line in sample.read_text("utf-8").splitlines()]
        assert requests
        assert all(request.keys() == {"custom_id", "params"} for request in requests)
        assert len({request["custom_id"] for request in requests}) == len(requests)


def test_the_command_line_does_not_wait_for_the_sdk(installed: Path) -> None:
    """``anthropic`` takes seconds to import; ``--help`` of every command must not."""
    modules = _python(
        installed,
        "import contextlib, io, sys; from unhurried.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): main(['--help']), main(['submit', '--help'])\n"
        "print(*sys.modules)",
    )
    assert {"anthropic", "aiosqlite", "fastapi", "uvicorn"}.isdisjoint(modules.split())


def _build(target: str, tree: Path, folder: Path) -> Path:
    _run([sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)], tree)
    (built,) = folder.glob("unhurried-*")
    return built


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _python(installed: Path, code: str) -> str:
    return _run([str(installed / "bin/python"), "-I", "-c", code], installed)


def _run(command: list[str], folder: Path) -> str:
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, f"{command} → {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout
