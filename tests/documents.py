"""The Markdown files of the repository: their blocks of code, their links, and the commands that they name.

* Python blocks of a document are run from top to bottom as one program. An address with port 8000, whatever
  its host, is a server on the embedded model; but keys.… is one with keys, gateway.… one of a camera, and
  several.… two servers, one of which goes away. A picture and a result that are named in quotes exist.
* In `console` blocks a command follows `$ `, the other lines are output; in `bash` blocks every line is one.
  Commands are not run, but programs, subcommands, options, make's targets and pip's extras must exist.
* `<!-- not run: reason -->` right before a block: it is compiled, or its commands are not looked at.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from repository import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
HARMLESS = frozenset({"cd", "curl", "git", "source"})
HARMLESS_MODULES = frozenset({"build", "pip", "pytest", "venv"})
_OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: of the file, on which its text begins.
        run: whether it is not marked "not run".
    """

    language: str
    text: str
    line: int
    run: bool

    def commands(self) -> Iterator[tuple[str, ...]]:
        """The simple commands of a shell block that is not marked, without redirections."""
        if self.language not in {"console", "bash"} or not self.run:
            return
        text = self.text.replace("\\\n", " ")
        for line in text.splitlines():
            if self.language == "console" and not line.startswith("$ "):
                continue
            words: list[str] = []
            for word in [*shlex.split(line.removeprefix("$ "), comments=True), ";"]:
                if word in {"&&", "||", ";", "|", "&", ">", ">>", "<"}:
                    if words:
                        yield tuple(words)
                    words = []
                    if word in {">", ">>", "<"}:
                        break
                elif words or not re.match(r"[A-Za-z_]\w*=", word):
                    words.append(word)


def tokens(page: Path) -> list[Token]:
    """What markdown-it makes of a file."""
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a file, in order; `AssertionError` if one does not name its language."""
    found = []
    before = None
    for token in tokens(page):
        if token.type == "fence":
            assert token.info, f"{page.name}: the block {token.content[:40]!r} needs a language"
            line = token.map[0] + 2 if token.map else 0
            marked = before is not None and before.content.startswith("<!-- not run: ")
            found.append(Block(token.info, token.content, line, not marked))
        before = token
    return found


def links(page: Path) -> set[str]:
    """Where the links and pictures of a file lead to."""
    inline = [child for token in tokens(page) for child in token.children or ()]
    return {str(found) for child in inline for name in ("href", "src") if (found := child.attrGet(name))}


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives a file's headings."""
    found = tokens(page)
    titles = [text.content for head, text in pairwise(found) if head.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(page: Path) -> list[str]:
    """What is wrong with the commands of a file, a line each."""
    found = ((block, command, wrong(command)) for block in blocks(page) for command in block.commands())
    return [f"from line {block.line}: {' '.join(command)}: {why}" for block, command, why in found if why]


def wrong(command: tuple[str, ...]) -> str | None:
    """What a command names that does not exist; None if all of it does."""
    try:
        _check(command)
    except AssertionError as error:
        return str(error)
    return None


def _check(command: tuple[str, ...]) -> None:
    program, *words = command
    if program in scripts():
        module, function = scripts()[program].split(":")
        _check_help(program, getattr(importlib.import_module(module), function), words)
    elif program == "make":
        text = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = re.findall(r"^([\w-]+):(?!=)", text, re.MULTILINE)
        unknown = {word for word in words if "=" not in word and not word.startswith("-")} - set(targets)
        assert not unknown, f"make has no target {unknown}"
    elif program == "pip":
        for extra in re.findall(r"(?:secondlook|\.)\[([\w,-]+)\]", " ".join(words)):
            unknown = set(extra.split(",")) - set(_project(ROOT)["optional-dependencies"])
            assert not unknown, f"there is no extra {unknown}"
        for folder in (word for word in words if re.match(r"\.+(/|$)", word)):
            assert (ROOT / folder / "pyproject.toml").is_file(), f"{folder} cannot be installed"
    elif program == "python" and words[0] == "-m":
        if words[1] not in HARMLESS_MODULES:
            _check_python(words[:2], words[2:])
    elif program == "python":
        assert (ROOT / words[0]).is_file(), f"there is no {words[0]}"
        _check_python(words[:1], words[1:])
    else:
        assert program in HARMLESS, f"{program} cannot be checked; mark the block 'not run'"


def scripts() -> dict[str, str]:
    """The programs that the installation makes, and their entry points."""
    found: dict[str, str] = {}
    for folder in (ROOT / "edge", ROOT):
        found |= _project(folder).get("scripts", {})
    return found


def _project(folder: Path) -> dict[str, dict[str, str]]:
    file = folder / "pyproject.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))["project"] if file.is_file() else {}


def _check_help(program: str, main: object, words: list[str]) -> None:
    """Ask for the help that these words lead to: typer refuses unknown commands and options even so."""
    assert callable(main)
    code, said = _run([program, *words, "--help"], main)
    assert code == 0, said


def _check_python(program: list[str], words: list[str]) -> None:
    """The same for a script with argparse, which shows its help before it looks at what follows."""
    given = {word.split("=")[0] for word in words if word.startswith("-")}
    unknown = given - set(_OPTION.findall(_help_of(*program)))
    assert not unknown, f"{program[-1]} has no option {unknown}"


@cache
def _help_of(*program: str) -> str:
    """What `python -m MODULE --help` or `python FILE --help` says."""
    run = runpy.run_module if program[0] == "-m" else runpy.run_path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that another test has imported it
        code, said = _run([*program[-1:], "--help"], lambda: run(program[-1], run_name="__main__"))
    assert code == 0, said
    return said


def _run(line: list[str], main: Callable[[], object]) -> tuple[object, str]:
    """Exit status and output of a program, run here."""
    said = io.StringIO()
    before, sys.argv = sys.argv, line
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
        return 0, said.getvalue()
    except SystemExit as end:
        return end.code or 0, said.getvalue()
    finally:
        sys.argv = before
