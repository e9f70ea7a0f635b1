"""The tree stands alone: no address of a registry, no folder of somebody's machine, scripts that any sh can run."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.tree import ROOT, files

SCRIPTS = [ROOT / "dev", ROOT / ".ci/run"]
FOREIGN = re.compile(
    r"(?<![\w.~*-])/(?:root|work|home/\w+|opt)/"  # folders of one machine
    r"|pypi\.\w+|pythonhosted|npmjs\.\w+|index-url|find-links"  # registries
)


def test_no_file_names_a_registry_or_a_folder_of_somebodys_machine() -> None:
    texts = {path: path.read_bytes().decode("utf-8") for path in files()}  # every file of ours is text
    del texts[Path(__file__).resolve()]  # the patterns themselves
    named = {str(path.relative_to(ROOT)): found[0] for path, text in texts.items() if (found := FOREIGN.search(text))}
    assert named == {}


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_dev_is_plain_shell(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    assert _run([shell, "-n", str(ROOT / "dev")]).returncode == 0


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_can_be_run(script: Path) -> None:
    assert script.read_bytes().startswith(b"#!")
    assert os.access(script, os.X_OK)


def test_dev_explains_itself_without_installing(tmp_path: Path) -> None:
    link = _copy(tmp_path)
    shown = _run([str(link), "help"])
    assert shown.returncode == 0
    assert "./dev test" in shown.stdout
    assert not (tmp_path / "the tree/.venv").exists()


def test_dev_says_which_python_it_wants(tmp_path: Path) -> None:
    refused = _run([str(_copy(tmp_path)), "test"], PYTHON="/nonexistent/python")
    assert refused.returncode == 1
    assert refused.stderr.startswith("dev: no Python 3.11 or later")
    assert not (tmp_path / "the tree/.venv").exists()


@pytest.mark.parametrize(("wanted", "taken"), [("oldest", "3.12"), ("newest", "3.13"), ("python3.12", "3.12")])
def test_dev_finds_the_oldest_and_the_newest_python(tmp_path: Path, wanted: str, taken: str) -> None:
    """On the path and among those of pyenv. Each makes an environment of its own."""
    path, pyenv = tmp_path / "bin", tmp_path / "pyenv"
    for version in ("3.11", "3.12", "3.13", "3.14"):
        _stand_in(path / f"python{version}", version if version == "3.12" else None)
    _stand_in(pyenv / "versions/3.13.0/bin/python", "3.13")
    (pyenv / "versions/3.11.7").mkdir()
    variables = {"PYTHON": wanted, "PYENV_ROOT": str(pyenv), "PATH": f"{path}:{os.environ['PATH']}"}
    ran = _run([str(_copy(tmp_path)), "test"], **variables)
    assert ran.stderr.splitlines()[-1] == f"stand-in {taken} -m venv --clear {tmp_path / 'the tree'}/.venv-{taken}"
    assert ran.returncode == 9


def _stand_in(path: Path, version: str | None) -> None:
    """For a Python: says its version and its place when it is looked at, and gives up at its first real task."""
    path.parent.mkdir(parents=True, exist_ok=True)
    looked_at = f'echo "{version} $0"; exit' if version else "exit 1"
    path.write_text(f"""#!/bin/sh
case $2 in *ensurepip*) {looked_at} ;; *fcntl*) exit ;; esac
echo "stand-in {version} $*" >&2; exit 9
""")
    path.chmod(0o755)


def _copy(folder: Path) -> Path:
    """A link to a ``dev`` that has nothing installed, in a folder with a space in its name."""
    tree = folder / "the tree"
    tree.mkdir()
    shutil.copy(ROOT / "dev", tree)
    shutil.copy(ROOT / "pyproject.toml", tree)
    shutil.copytree(ROOT / "requirements", tree / "requirements")
    link = folder / "link"
    link.symlink_to("the tree/dev")
    return link


def _run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment)
