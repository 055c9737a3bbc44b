"""The workflow that builds engines: every command line in it is one that `secondlook` takes."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from typing import Any

import pytest
import typer
import yaml
from typer.main import get_command

from repository import ROOT
from secondlook.benchmarks.cli import app
from secondlook.export.tensorrt import cli

WORKFLOW: dict[Any, Any] = yaml.safe_load(
    (ROOT / ".github" / "workflows" / "build-engines.yml").read_text(encoding="utf-8")
)
INPUTS: dict[str, Any] = WORKFLOW[True]["workflow_dispatch"]["inputs"]  # YAML 1.1 reads the key `on` as true
LINES = [
    line.strip()
    for job in WORKFLOW["jobs"].values()
    for step in job["steps"]
    for line in step.get("run", "").splitlines()
]
SECONDLOOK = [line for line in LINES if line.startswith("secondlook ")]


def commands() -> Any:
    """The command line; with `build`, also where nobody has added it yet."""
    names = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    if "build" in names:
        return get_command(app)
    whole = typer.Typer()
    whole.registered_commands += app.registered_commands
    whole.registered_groups += app.registered_groups
    cli.register(whole)
    return get_command(whole)


def filled(line: str) -> list[str]:
    """A line's words, with what the workflow's inputs are by default."""
    return shlex.split(re.sub(r"\$([A-Z]+)\b", lambda name: str(INPUTS[name[1].lower()]["default"]), line))


@pytest.mark.parametrize("line", SECONDLOOK)
def test_a_command_line_is_taken(line: str) -> None:
    group = commands()
    _, name, *arguments = filled(line)
    if name not in group.commands and find_spec("secondlook.export.cli") is None:
        pytest.skip(f"there is no secondlook {name} yet")
    group.commands[name].make_context(name, arguments)  # parses, and runs nothing


def test_a_command_line_that_is_wrong_is_noticed() -> None:
    with pytest.raises(Exception, match=r"No such option.*--no-such"):
        commands().commands["build"].make_context("build", ["folder", "--no-such"])


def test_the_whole_way_is_there() -> None:
    assert [filled(line)[1] for line in SECONDLOOK] == ["export", "build", "verify", "inspect"]
    assert WORKFLOW["jobs"]["export"]["runs-on"] == "ubuntu-latest"
    assert WORKFLOW["jobs"]["build"]["needs"] == "export"
    assert [gpu for gpu in ("a100", "l4", "jetson") if gpu in INPUTS["gpus"]["default"]] == [
        "a100",
        "l4",
        "jetson",
    ]


def test_what_is_typed_in_is_never_part_of_a_script() -> None:
    assert not [line for line in LINES if "${{" in line]


def test_extras_that_are_installed_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(
        re.findall(r"^([\w-]+) = \[", project.split("[project.optional-dependencies]\n")[1], re.MULTILINE)
    )
    wanted = {
        name for line in LINES for group in re.findall(r"\.\[([\w,-]+)\]", line) for name in group.split(",")
    }
    if not {"export", "tensorrt"} & extras:
        pytest.skip("there are no extras for export yet")
    assert wanted <= extras
