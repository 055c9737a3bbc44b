"""Running a README's Python blocks, and making sure of its commands without running them."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from readme_blocks import PYTHON, SHELL, Block, Command, ReadmeError, commands, localised, pictures
from repository import ROOT
from secondlook.benchmarks.signs.evaluation import signs_picture

HARMLESS = frozenset({"cd", "git", "source"})
HARMLESS_MODULES = frozenset({"build", "pytest", "venv"})
SECONDS = 120


def run_python(found: Iterable[Block], address: str, folder: Path) -> None:
    """Run the Python blocks as one program in `folder`, the current one, against the server at `address`.

    Errors show the README's own lines. Blocks marked "not run" are compiled only.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in found:
        if block.language not in PYTHON:
            continue
        code = "\n" * (block.line - 1) + block.text
        compile(code, "README.md", "exec")
        if block.not_run is None:
            draw(pictures(code), folder)
            exec(compile(localised(code, address), "README.md", "exec"), names)


def draw(names: Iterable[str], folder: Path) -> None:
    """Have a photograph of signs under each name."""
    for index, name in enumerate(sorted(names)):
        path = folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(io.BytesIO(signs_picture("test", 1, index).jpeg)) as picture:
                picture.save(path)


def check_commands(found: Iterable[Block]) -> None:
    """Make sure of every command of the shell blocks.

    Raises:
        ReadmeError: what a command names does not exist, or may not be called in a block that is not marked.
    """
    for block in found:
        if block.language in SHELL:
            for command in commands(block):
                _check(command, block.not_run is not None)


def _check(command: Command, marked: bool) -> None:
    program, *words = command.words
    if program in {"python", "python3"} and words[:1] == ["-m"] and len(words) > 1:
        _check_module(command, words[1], words[2:])
    elif program == "make":
        _check_make(command, words)
    elif program == "pip":
        _check_pip(command, words)
    elif program in scripts():
        module, function = scripts()[program].split(":")
        code = f"import sys; sys.argv[0] = {program!r}; from {module} import {function}; {function}()"
        _check_help(command, ["-c", code, *words])
    elif program not in HARMLESS and not marked:
        raise ReadmeError(f"line {command.line}: {program} cannot be checked; mark the block 'not run'")


def _check_module(command: Command, module: str, words: list[str]) -> None:
    if module == "pip":
        _check_pip(command, words)
    elif module.split(".")[0] in {"secondlook", "training"}:
        text = _check_help(command, ["-m", module, *words])
        # argparse shows its help before it looks at what follows.
        if unknown := Command(("", *words), 0).options - set(
            re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", text)
        ):
            raise ReadmeError(f"line {command.line}: {module} has no option {', '.join(sorted(unknown))}")
    elif module not in HARMLESS_MODULES:
        raise ReadmeError(f"line {command.line}: python -m {module} cannot be checked")


def _check_make(command: Command, words: list[str]) -> None:
    targets = set(
        re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    if unknown := {word for word in words if "=" not in word and not word.startswith("-")} - targets:
        raise ReadmeError(f"line {command.line}: make has no target {', '.join(sorted(unknown))}")


def _check_pip(command: Command, words: list[str]) -> None:
    """`pip install` of this project: from here, a wheel or an index, with extras that it has."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.split("[project.optional-dependencies]\n")[1].split("\n[")[0]
    extras = set(re.findall(r"^([\w-]+) = \[", section, re.MULTILINE))
    before = ""
    for word in words[1:]:
        if before in {"-c", "--constraint"}:
            if not (ROOT / word).is_file():
                raise ReadmeError(f"line {command.line}: there is no {word}")
        elif not word.startswith("-"):
            wanted = re.fullmatch(r"(?:secondlook|\.)(?:\[([\w,-]+)\])?|\S+\.whl", word)
            if words[0] != "install" or wanted is None:
                raise ReadmeError(f"line {command.line}: 'pip {words[0]} {word}' cannot be checked")
            if unknown := {extra for extra in (wanted[1] or "").split(",") if extra} - extras:
                raise ReadmeError(f"line {command.line}: there is no extra {', '.join(sorted(unknown))}")
        before = word


def _check_help(command: Command, arguments: list[str]) -> str:
    """The help that these arguments lead to: typer refuses unknown commands and options even so."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "200"}
    for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, *arguments, "--help"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=SECONDS,
    )
    if done.returncode != 0:
        raise ReadmeError(f"line {command.line}: {' '.join(command.words)}: {done.stderr}")
    return done.stdout


def scripts() -> dict[str, str]:
    """The commands that the installation makes, and their entry points."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.split("[project.scripts]\n")[1].split("\n[")[0]
    return dict(re.findall(r'^([\w-]+) = "([^"]+)"$', section, re.MULTILINE))
