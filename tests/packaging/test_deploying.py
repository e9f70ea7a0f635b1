"""What would break a deployment silently: numbers, paths, settings and commands that several files have to agree on."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from tests.packaging.deployment import (
    DEPLOY,
    FILES,
    compose,
    compose_config,
    dockerfile,
    instruction,
    pod,
    stateful_set,
    unit,
)
from tests.packaging.tree import ROOT, pyproject
from unhurried import __version__
from unhurried.cli import exits, probe
from unhurried.cli.commands import commands
from unhurried.settings import SYSTEM_RUNTIME, SYSTEM_STATE, variables

HEALTH = ["unhurried", "health"]
HEALTH_ANSWERS_S = probe.TIMEOUT_S  # whoever cuts it off earlier never learns why
DEFAULTS = {variable: default for variable, default, _ in variables()}
PAGE = (ROOT / "docs/deploying.md").read_text()


def test_every_setting_that_is_named_exists() -> None:
    named = {name for path in FILES for name in re.findall(r"UNHURRIED_[A-Z_]*[A-Z]", path.read_text())}
    assert named - {"UNHURRIED_PORT"} <= DEFAULTS.keys()  # that one is what Kubernetes adds


def test_the_image_runs_as_one_number_that_is_not_root_and_owns_its_volumes() -> None:
    number = "10001"
    assert instruction("USER") == f"{number}:{number}"
    made = instruction("RUN")
    assert f"groupadd --gid {number} " in made
    assert f"useradd --uid {number} --gid {number} " in made
    owned = re.findall(r"install --directory --owner (\d+) --group (\d+) --mode (\d+) (\S+)", made)
    assert owned == [(number, number, "0750", str(SYSTEM_RUNTIME)), (number, number, "0700", str(SYSTEM_STATE))]
    assert compose()["application"]["group_add"] == [number]
    inside = pod()
    assert str(inside["securityContext"]["fsGroup"]) == number
    assert str(inside["containers"]["unhurried"]["securityContext"]["runAsUser"]) == number


def test_process_1_is_the_daemon_so_that_it_gets_the_signal() -> None:
    """The shell form would put a shell in its place, which passes no signal on."""
    assert json.loads(instruction("ENTRYPOINT")) + json.loads(instruction("CMD")) == ["unhurried", "serve"]
    assert instruction("STOPSIGNAL") == "SIGTERM"


def test_socket_and_database_lie_on_the_volumes_wherever_it_runs() -> None:
    volumes = [str(SYSTEM_RUNTIME), str(SYSTEM_STATE)]
    assert json.loads(instruction("VOLUME")) == volumes
    set_here = dict(re.findall(r"(UNHURRIED_\w+)=(\S+)", instruction("ENV")))
    assert [str(Path(set_here[name]).parent) for name in ("UNHURRIED_SOCKET", "UNHURRIED_DATABASE")] == volumes
    services, containers = compose(), pod()["containers"]
    assert [mount["target"] for mount in services["unhurried"]["volumes"]] == volumes
    assert [mount["mountPath"] for mount in containers["unhurried"]["volumeMounts"]] == volumes
    assert services["application"]["volumes"][0]["target"] == volumes[0]
    assert [mount["mountPath"] for mount in containers["application"]["volumeMounts"]] == volumes[:1]
    (claim,) = stateful_set()["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == containers["unhurried"]["volumeMounts"][1]["name"]
    directories = {Path(unit()[name][0]).name for name in ("RuntimeDirectory", "StateDirectory")}
    assert directories == {SYSTEM_RUNTIME.name} == {SYSTEM_STATE.name}


def test_health_is_asked_by_the_same_command_everywhere_and_given_the_time_to_answer() -> None:
    found = re.fullmatch(r"--interval=\d+s --timeout=(\d+)s .*CMD (.+)", instruction("HEALTHCHECK"))
    assert found is not None
    assert json.loads(found[2]) == HEALTH
    check = compose()["unhurried"]["healthcheck"]
    assert check["test"] == ["CMD-SHELL", f"until {' '.join(HEALTH)}; do sleep 1; done"]
    sidecar = pod()["containers"]["unhurried"]
    probes = [sidecar[name] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert [probe["exec"]["command"] for probe in probes] == [HEALTH, HEALTH, [*HEALTH, "--ready"]]
    limits_s = [int(found[1]), _seconds(check["timeout"]), *(probe["timeoutSeconds"] for probe in probes)]
    assert min(limits_s) > HEALTH_ANSWERS_S


def test_whoever_stops_it_waits_longer_than_the_grace() -> None:
    service, inside = compose()["unhurried"], pod()
    of_pod = {variable["name"]: variable.get("value") for variable in inside["containers"]["unhurried"]["env"]}
    (of_unit,) = [value for value in unit()["Environment"] if value.startswith("UNHURRIED_GRACE_S=")]
    assert _seconds(service["stop_grace_period"]) > float(service["environment"]["UNHURRIED_GRACE_S"])
    assert inside["terminationGracePeriodSeconds"] > float(of_pod["UNHURRIED_GRACE_S"])
    assert float(unit()["TimeoutStopSec"][0]) > float(of_unit.partition("=")[2])
    with_anthropic = compose(DEPLOY / "anthropic.yaml", ANTHROPIC_API_KEY="a-key")["unhurried"]
    assert _seconds(with_anthropic["stop_grace_period"]) > DEFAULTS["UNHURRIED_GRACE_S"]


def test_every_container_has_a_read_only_root_and_no_privileges() -> None:
    for service in compose().values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    inside = pod()
    assert inside["securityContext"]["runAsNonRoot"]
    assert not inside["automountServiceAccountToken"]
    for container in inside["containers"].values():
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_compose_uses_the_simulator_because_it_says_so_and_anthropic_because_another_file_does() -> None:
    simulated = compose(ANTHROPIC_API_KEY="a-key")  # a key alone changes nothing
    assert simulated == compose()
    assert simulated["unhurried"]["environment"]["UNHURRIED_UPSTREAM__SIMULATOR"] == "true"
    assert {service["network_mode"] for service in simulated.values()} == {"none"}
    real = compose(DEPLOY / "anthropic.yaml", ANTHROPIC_API_KEY="a-key")
    assert real.keys() == {"unhurried", "application"}
    assert not {name for name in real["unhurried"]["environment"] if name.startswith("UNHURRIED_UPSTREAM__")}
    assert "network_mode" not in real["unhurried"]
    assert real["application"] == simulated["application"]


def test_compose_with_anthropic_wants_a_key_before_it_starts_anything() -> None:
    refused = compose_config(DEPLOY / "anthropic.yaml")
    assert refused.returncode != 0
    assert "ANTHROPIC_API_KEY" in refused.stderr


def test_the_sidecar_of_the_manifest_is_one_and_its_key_is_no_text() -> None:
    spec = stateful_set()["template"]["spec"]
    assert [(one["name"], one["restartPolicy"]) for one in spec["initContainers"]] == [("unhurried", "Always")]
    keys = [variable for variable in spec["initContainers"][0]["env"] if "KEY" in variable["name"]]
    assert [variable["valueFrom"].keys() for variable in keys] == [{"secretKeyRef"}]


def test_the_image_says_what_it_is() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\S+)="([^"]*)"', instruction("LABEL")))
    assert labels["version"] == __version__
    assert labels["description"] == pyproject()["project"]["description"]
    assert pod()["containers"]["unhurried"]["image"].endswith(f":{__version__}")


def test_the_base_is_a_python_that_is_tested() -> None:
    default, again = (arguments for name, arguments in dockerfile() if name == "ARG")
    assert again == "BASE_IMAGE"  # a stage does not see what stands before it
    found = re.fullmatch(r"BASE_IMAGE=(python:(3\.\d+)-slim-bookworm)", default)
    assert found is not None
    assert f"Programming Language :: Python :: {found[2]}" in pyproject()["project"]["classifiers"]
    assert compose()["unhurried"]["build"]["args"] == {"BASE_IMAGE": found[1]}
    assert compose(BASE_IMAGE="other")["unhurried"]["build"]["args"] == {"BASE_IMAGE": "other"}


def test_the_unit_is_restarted_unless_that_cannot_help() -> None:
    prevented = {int(code) for code in unit()["RestartPreventExitStatus"][0].split()}
    assert prevented == {exits.CANNOT_CREATE, exits.SETTINGS}
    assert unit()["Restart"] == ["always"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "unhurried.service").read_text()
    copy = tmp_path / "unhurried.service"
    copy.write_text(re.sub("^ExecStart=.*$", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=30, check=False
    )
    about_it = [line for line in ran.stderr.splitlines() if "unhurried.service" in line]  # and not about the machine
    assert about_it == []


def test_every_command_and_file_of_the_page_is_there() -> None:
    known = typer.main.get_group(commands()).commands.keys()
    used = re.findall(r"\bunhurried (?!unhurried\b)([a-z]+)", "\n".join(re.findall(r"`([^`\n]+)`", PAGE)))
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    used += re.findall(r"(?:bin/|unhurried |-- )unhurried ([a-z]+)", blocks)
    assert {"serve", "status", "health"} <= set(used) <= known
    named = re.findall(r"^\| `([^`]+)` \|", PAGE[: PAGE.index("## The image")], re.MULTILINE)
    named += [str(Path("docs") / link) for link in re.findall(r"\]\(([^#)]+)", PAGE)]
    named += re.findall(r"(?<!\S)(docs/deploy/\S+|requirements/\S+|compose\.yaml)(?!\S)", blocks)
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []


def _seconds(text: str) -> float:
    """Of a duration as Compose writes it: ``1m5s``."""
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", text)
    assert found, text
    return 60 * int(found[1] or 0) + int(found[2] or 0)
