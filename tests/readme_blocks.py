"""The code blocks of a Markdown file, and what its shell lines may say.

The convention:
- Every fence names its language. `python`, and `console` or `bash`, are checked; others are for reading.
- Python blocks are run from top to bottom as one program. An address with port 8000, whatever its host,
  stands for a server on the embedded model; a picture that is named exists.
- `console` blocks have a `$ ` before each command, the other lines are output; `bash` blocks are commands.
- Commands are not run, but made sure of: make has the target, pip the extra, and our own commands and modules
  take every option that is named. Nothing else may be called but what `readme_checks.HARMLESS` names.
- `<!-- not run: reason -->` before a block: Python is only compiled, and any other command may be called.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

PYTHON = frozenset({"python"})
SHELL = frozenset({"console", "bash"})

_FENCE = re.compile(r"^(?P<indent> {0,3})(?P<ticks>```+)[ \t]*(?P<language>[^\s`]*)[^`]*$")
_NOT_RUN = re.compile(r"^<!-- not run:(?P<reason>.*)-->$")
_ADDRESS = re.compile(r"http://[\w.-]+:8000\b")
_PICTURE = re.compile(r"""["']([\w./-]+\.(?:jpe?g|png))["']""")
_OPTION = re.compile(r"--?[A-Za-z][\w-]*")
_OPERATORS = frozenset({"&&", "||", ";", "|", "&"})


@dataclass(frozen=True)
class Block:
    """One fenced block: its text, the line of the file it begins on, and why it is not run, if so."""

    language: str
    text: str
    line: int
    not_run: str | None = None


class ReadmeError(AssertionError):
    """The file breaks the convention; the message names the line."""


def blocks(markdown: str) -> list[Block]:
    """Every fenced block, in order.

    Raises:
        ReadmeError: a fence has no language or no end, or a "not run" no reason or no block after it.
    """
    found: list[Block] = []
    reason: str | None = None
    lines = iter(enumerate(markdown.splitlines(), start=1))
    for number, line in lines:
        if marker := _NOT_RUN.match(line.strip()):
            reason = marker["reason"].strip()
            if not reason:
                raise ReadmeError(f"line {number}: say why the block is not run")
        elif fence := _FENCE.match(line):
            if not fence["language"]:
                raise ReadmeError(f"line {number}: the block needs a language; text, if it has none")
            found.append(Block(fence["language"], _inside(lines, fence, number), number + 1, reason))
            reason = None
        elif line.strip() and reason is not None:
            raise ReadmeError(f"line {number}: a block must follow 'not run'")
    if reason is not None:
        raise ReadmeError("the last 'not run' has no block after it")
    return found


def _inside(lines: Iterator[tuple[int, str]], fence: re.Match[str], number: int) -> str:
    text: list[str] = []
    for _, line in lines:
        if line.strip() == fence["ticks"]:
            return "\n".join(text) + "\n"
        text.append(line.removeprefix(fence["indent"]))
    raise ReadmeError(f"line {number}: the block never ends")


def localised(code: str, address: str) -> str:
    """The code with the addresses of the server replaced."""
    return _ADDRESS.sub(lambda _: address, code)


def pictures(code: str) -> set[str]:
    """The names of picture files that the code has in quotes."""
    return set(_PICTURE.findall(code))


@dataclass(frozen=True)
class Command:
    """One simple command: its words, and its line in the file."""

    words: tuple[str, ...]
    line: int

    @property
    def options(self) -> set[str]:
        """The options among the words, without their values."""
        return {word.split("=")[0] for word in self.words[1:] if _OPTION.fullmatch(word.split("=")[0])}


def commands(block: Block) -> list[Command]:
    """The simple commands of a shell block, without variables and redirections."""
    return [
        command
        for line, text in _command_lines(block)
        for words in _simple(text)
        if (command := Command(tuple(words), line)).words
    ]


def _command_lines(block: Block) -> Iterator[tuple[int, str]]:
    """Each command with its continuation lines joined, and the line it begins on."""
    prompt = "$ " if block.language == "console" else ""
    begun, text = 0, ""
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        if not text and not line.startswith(prompt):
            continue
        begun, text = (begun, text) if text else (number, "")
        text += line if text else line.removeprefix(prompt)
        if text.endswith("\\"):
            text = text[:-1] + " "
            continue
        yield begun, text
        text = ""
    if text:
        raise ReadmeError(f"line {begun}: the command goes on after the block's end")


def _simple(text: str) -> Iterator[list[str]]:
    # The digit of "2>" is part of the redirection.
    lexer = shlex.shlex(re.sub(r"(?<=\s)\d(?=[<>])", "", text), posix=True, punctuation_chars=True)
    lexer.wordchars += "[]{}$@:,%!^+"
    words: list[str] = []
    skip = False
    for word in [*lexer, ";"]:
        if word in _OPERATORS:
            yield words
            words = []
        elif set(word) <= set("<>&"):
            skip = True  # the word after a redirection is a file
        elif skip:
            skip = False
        elif words or not re.match(r"[A-Za-z_]\w*=", word):
            words.append(word.removeprefix(".venv/bin/") if not words else word)
