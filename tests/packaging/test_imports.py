"""What is imported is declared, and what is declared is imported; what import-linter cannot see of the rooms."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.packaging.tree import PACKAGE, ROOT, files, group, pyproject

NOT_IMPORTED = {
    "httptools",  # uvicorn's protocol is built on it, and falls back to a slower one without it
}
DISTRIBUTIONS = packages_distributions()


def test_every_dependency_is_imported_and_every_import_is_a_dependency() -> None:
    imported = {name for path in _sources(PACKAGE) for name in _distributions(path)}
    declared = _names(pyproject()["project"]["dependencies"])
    assert imported - declared == set(), "add to [project] dependencies, then ./dev lock"
    assert declared - imported - NOT_IMPORTED == set(), "remove from [project] dependencies, then ./dev lock"


def test_the_tests_import_what_is_declared() -> None:
    imported = {name for path in _sources(ROOT / "tests") for name in _distributions(path)}
    declared = _names([*pyproject()["project"]["dependencies"], *group("test")])
    assert imported - declared == set(), "add to the group `test`, then ./dev lock"


def test_commands_import_the_daemon_only_when_they_run() -> None:
    """import-linter lets ``cli.serve`` import ``app``, and commands the simulator; only inside functions."""
    for path in _sources(PACKAGE / "cli"):
        at_once = set(_modules(ast.parse(path.read_bytes()), functions=False))
        assert not {name for name in at_once if re.match(r"unhurried\.(app|simulator|store|upstream)\b", name)}, path


def test_the_contract_of_the_domain_names_every_dependency() -> None:
    """import-linter has no list of what is allowed; its list of what is forbidden must stay complete."""
    project = pyproject()
    contracts = {contract["id"]: contract for contract in project["tool"]["importlinter"]["contracts"]}
    forbidden = {name for name in contracts["domain"]["forbidden_modules"] if not name.startswith("unhurried.")}
    declared = {name.replace("-", "_") for name in _names(project["project"]["dependencies"])}
    assert forbidden == declared - {"msgspec"}


def _sources(folder: Path) -> list[Path]:
    return [path for path in files(folder) if path.suffix == ".py"]


def _distributions(path: Path) -> Iterator[str]:
    """The distributions from which ``path`` imports, wherever in the file; neither ours nor the standard library."""
    for module in _modules(ast.parse(path.read_bytes())):
        top = module.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {"unhurried", "tests"}:
            yield DISTRIBUTIONS.get(top, [f"unknown: {top}"])[0].lower().replace("_", "-")


def _modules(node: ast.AST, *, functions: bool = True) -> Iterator[str]:
    """The modules that import statements below ``node`` name; ``functions`` says whether to look into these too."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.Import):
            yield from (alias.name for alias in inner.names)
        elif isinstance(inner, ast.ImportFrom):
            yield inner.module or ""
            yield from (f"{inner.module}.{alias.name}" for alias in inner.names)
        elif functions or not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _modules(inner, functions=functions)


def _names(requirements: list[str]) -> set[str]:
    return {match[0] for text in requirements if (match := re.match(r"[a-z0-9-]+", text))}
