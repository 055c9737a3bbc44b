"""What `deploy/` has: held to the schemas and linters of its formats, and to what the server really takes.

No image is built here: these tests see what can be seen without.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from engine.fake_engine import FakeEngine
from repository import ROOT
from secondlook.engine.cli import command_line
from secondlook.engine.serve.app import create_app

DEPLOY = ROOT / "deploy"
YAMLLINT = "{extends: default, rules: {line-length: {max: 115}}}"
LINTERS = {
    "Dockerfile": ["hadolint"],
    "compose.yaml": ["check-jsonschema", "--builtin-schema", "vendor.compose-spec"],
    "kubernetes.yaml": ["kubernetes-validate", "--strict"],
}
FAULTS = {
    "Dockerfile": (r"python:\$\{PYTHON\} AS edge", "python AS edge"),
    "compose.yaml": ("cap_drop", "cap_dorp"),
    "kubernetes.yaml": ("readinessProbe", "readynessProbe"),
}


def lint(command: list[str], file: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which(command[0], path=str(Path(sys.executable).parent))
    assert program is not None, f"{command[0]} is of the extra dev"
    return subprocess.run([program, *command[1:], str(file)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", LINTERS)
def test_the_linters_have_nothing_to_say(name: str) -> None:
    result = lint(LINTERS[name], DEPLOY / name)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", LINTERS)
def test_the_linters_would_see_a_fault(name: str, tmp_path: Path) -> None:
    text, found = re.subn(*FAULTS[name], (DEPLOY / name).read_text(encoding="utf-8"))
    assert found
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert lint(LINTERS[name], tmp_path / name).returncode != 0


@pytest.mark.parametrize("file", sorted(DEPLOY.glob("*.yaml")), ids=lambda file: file.name)
def test_the_yaml_is_tidy(file: Path) -> None:
    result = lint(["yamllint", "--strict", "--config-data", YAMLLINT], file)
    assert result.returncode == 0, result.stdout


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def pod() -> Any:
    (deployment,) = (one for one in documents("kubernetes.yaml") if one["kind"] == "Deployment")
    return deployment["spec"]["template"]["spec"]


def options() -> set[str]:
    """Of `secondlook serve`."""
    commands = get_command(command_line()).commands  # type: ignore[attr-defined]
    return {name for parameter in commands["serve"].params for name in parameter.opts}


def test_only_options_are_given_that_there_are() -> None:
    given = list(pod()["containers"][0]["args"])
    for service in documents("compose.yaml")[0]["services"].values():
        given += service.get("command", [])
    given += re.findall(r'"(--[\w-]+)"', (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    named = {one.partition("=")[0] for one in given if one.startswith("--")}
    assert len(named) > 5
    assert named <= options()


def test_every_image_has_a_version() -> None:
    arguments = dict(
        re.findall(r"(?m)^ARG (\w+)=(\S+)$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    )
    assert all(re.search(r"\d+\.\d+", value) for name, value in arguments.items())
    services = documents("compose.yaml")[0]["services"].values()
    images = {service["image"] for service in services if "build" not in service}
    images.add(pod()["containers"][0]["image"])
    assert all(re.search(r":\d+\.\d+\.\d+", image) for image in images)


def test_probes_ask_what_the_server_answers() -> None:
    paths = set(create_app(FakeEngine()).openapi()["paths"])
    container = pod()["containers"][0]
    probes = {
        name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")
    }
    assert probes == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    assert set(probes.values()) <= paths


def test_servers_are_given_the_time_that_they_need_to_stop() -> None:
    (grace,) = (one for one in pod()["containers"][0]["args"] if one.startswith("--grace-seconds="))
    slept = pod()["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod()["terminationGracePeriodSeconds"] > float(grace.partition("=")[2]) + slept
    compose = documents("compose.yaml")[0]["x-server"]["stop_grace_period"]
    assert float(compose.removesuffix("s")) > 30  # the default of --grace-seconds


def test_the_server_may_write_nothing_but_its_caches() -> None:
    container = pod()["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod()["securityContext"]["runAsNonRoot"] is True
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {"/cache", "/tmp"}
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert len(re.findall(r"(?m)^USER 10001:10001$", dockerfile)) == 3
    assert pod()["securityContext"]["runAsUser"] == 10001


def test_what_an_image_is_built_from_is_in_the_context() -> None:
    """Of what is left out, nothing is copied by name, and nothing of it is in the wheel."""
    left_out = {
        line.strip()
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    }
    copied = re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    names = {name for line in copied for name in line.split()} - {"."}
    assert names == {"constraints.txt", "LICENSE", "edge"}
    assert all((ROOT / name).exists() for name in names)
    needed = {"edge", "kernels", "engine", "export", "benchmarks", "setup.py", "pyproject.toml", "README.md"}
    assert not needed & left_out


def test_the_document_shows_what_the_configuration_has() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"(?s)```nginx\n(.*?)```", page)
    there = [line.strip() for line in (DEPLOY / "nginx.conf").read_text(encoding="utf-8").splitlines()]
    assert not {line.strip() for line in shown.splitlines()} - set(there)
