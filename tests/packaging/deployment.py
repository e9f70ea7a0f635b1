"""The files of a deployment as data: the Dockerfile, the Compose files, the manifest, the unit."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]  # its types are a package of their own

from tests.packaging.tree import ROOT

DEPLOY: Final = ROOT / "docs/deploy"
FILES: Final = [ROOT / "Dockerfile", ROOT / "compose.yaml", ROOT / "docs/deploying.md", *sorted(DEPLOY.iterdir())]


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the last stage with their arguments, each on one line; before them those before any stage."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = [(name, " ".join(arguments.split())) for name, _, arguments in (line.partition(" ") for line in lines)]
    stages = [n for n, (name, _) in enumerate(found) if name == "FROM"]
    return found[: stages[0]] + found[stages[-1] :]


def instruction(name: str) -> str:
    """The arguments of the one instruction of that name in the last stage."""
    (arguments,) = [arguments for other, arguments in dockerfile() if other == name]
    return arguments


def compose(*more: Path, **variables: str) -> dict[str, Any]:
    """The services of ``compose.yaml``, merged with ``more`` and filled in with ``variables``, as Compose sees them."""
    ran = compose_config(*more, **variables)
    assert ran.returncode == 0, ran.stderr
    services: dict[str, Any] = json.loads(ran.stdout)["services"]
    return services


def compose_config(*more: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    files = [argument for path in (ROOT / "compose.yaml", *more) for argument in ("-f", str(path))]
    program = Path(sys.executable).with_name("docker-compose")
    kept = {"PATH": os.environ["PATH"], "HOME": str(ROOT)}  # no variable of whoever runs the tests
    return subprocess.run(
        [str(program), *files, "config", "--format", "json"],
        capture_output=True, text=True, timeout=30, check=False, env={**kept, **variables},
    )  # fmt: skip


def pod() -> dict[str, Any]:
    """The pod of the manifest, by the names of its parts; the containers' lists as dicts."""
    spec: dict[str, Any] = stateful_set()["template"]["spec"]
    containers = {container["name"]: container for container in spec["initContainers"] + spec["containers"]}
    return {**spec, "containers": containers}


def stateful_set() -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes.yaml").read_text())["spec"]
    return spec


def unit() -> dict[str, list[str]]:
    """The settings of the systemd unit; a name may be given more than once."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "unhurried.service").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found
