"""The workflow that builds plans: every command line in it is one that `secondlook` takes."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import yaml
from typer.main import get_command

from repository import ROOT
from secondlook.engine.cli import command_line

WORKFLOW: dict[Any, Any] = yaml.safe_load(
    (ROOT / ".github" / "workflows" / "build-plans.yml").read_text(encoding="utf-8")
)
INPUTS: dict[str, Any] = WORKFLOW[True]["workflow_dispatch"]["inputs"]  # YAML 1.1 reads the key `on` as true
LINES = [
    line.strip()
    for job in WORKFLOW["jobs"].values()
    for step in job["steps"]
    for line in step.get("run", "").splitlines()
]


def filled(line: str) -> list[str]:
    """A line's words, with what the workflow's inputs are by default."""
    return shlex.split(re.sub(r"\$([A-Z]+)\b", lambda name: str(INPUTS[name[1].lower()]["default"]), line))


def test_the_whole_way_is_there_and_its_command_lines_are_taken() -> None:
    group: Any = get_command(command_line())
    lines = [filled(line) for line in LINES if line.startswith("secondlook ")]
    assert [words[1] for words in lines] == ["export", "build", "verify", "inspect"]
    for _, name, *arguments in lines:
        group.commands[name].make_context(name, arguments)  # parses, and runs nothing
    with pytest.raises(Exception, match=r"No such option.*--no-such"):
        group.commands["build"].make_context("build", ["folder", "--no-such"])


def test_what_is_typed_in_is_never_part_of_a_script() -> None:
    assert not [line for line in LINES if "${{" in line]


def test_extras_that_are_installed_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.split("[project.optional-dependencies]\n")[1]
    extras = set(re.findall(r"^([\w-]+) = \[", section, re.MULTILINE))
    groups = [group for line in LINES for group in re.findall(r"\.\[([\w,-]+)\]", line)]
    assert {name for group in groups for name in group.split(",")} <= extras
