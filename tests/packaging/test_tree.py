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
    r"|file:///"
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
