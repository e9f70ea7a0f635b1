"""The tree as a person would check it out: every file of ours, with or without git."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = ROOT / "service/unhurried"
_NOT_OURS: Final = {"__pycache__", "build", "dist"}
_OURS: Final = {".ci", ".dockerignore", ".github", ".gitignore"}


def files(folder: Path = ROOT) -> Iterator[Path]:
    """Every file below ``folder`` but what tools leave behind (hidden ones, caches, builds, lock files)."""
    for path in sorted(folder.iterdir()):
        if path.name in _NOT_OURS or path.name.endswith((".egg-info", ".pyc", ".lock")):
            continue
        if path.name.startswith(".") and path.name not in _OURS:
            continue
        if path.is_dir():
            yield from files(path)
        else:
            yield path


def pyproject() -> dict[str, Any]:
    """``pyproject.toml`` as written."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def group(name: str) -> list[str]:
    """The requirements of a dependency group, with those of the groups that it includes."""
    found: list[str] = []
    for entry in pyproject()["dependency-groups"][name]:
        found += [entry] if isinstance(entry, str) else group(entry["include-group"])
    return found
