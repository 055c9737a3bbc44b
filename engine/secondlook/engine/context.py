"""Context replacement: an earlier answer as one line behind the question.

It stands behind picture and question, so that the picture's keys and values are computed once, before it is
known which history applies, and serve the question without a history too.
"""

from __future__ import annotations

import re
from string import Formatter
from typing import Final

from secondlook.edge.errors import SettingsError

__all__ = ["MOST_CHARACTERS", "check_template", "condensed", "with_history"]

MOST_CHARACTERS: Final = 80
"""Of an earlier answer behind a question."""

_FIELDS: Final = ("question", "age", "answer")
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s")


def check_template(template: str) -> None:
    """
    Raises:
        SettingsError: it has not each of {question}, {age} and {answer}, or anything else in braces.
    """
    try:
        parsed = [(name, spec) for _, name, spec, _ in Formatter().parse(template) if name is not None]
        if sorted(name for name, _ in parsed) != sorted(_FIELDS):
            raise ValueError("its fields are " + (", ".join(name for name, _ in parsed) or "none"))
        if any(spec and name != "age" for name, spec in parsed):
            raise ValueError("only {age} may say how it is written")
        template.format(question="q", age=1.0, answer="a")
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise SettingsError(
            "a template of context needs each of {question}, {age} (seconds, such as {age:.1f}) and {answer} "
            f"once, and {template!r} is none: {error}"
        ) from None


def condensed(text: str, most: int = MOST_CHARACTERS) -> str:
    """An answer in one line of at most `most` characters: as many whole sentences as fit, else whole words.

    White space of any kind becomes a space, and characters that are not printed go.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(line) <= most:
        return line
    kept = ""
    for sentence in _SENTENCE.split(line):
        longer = f"{kept} {sentence}".strip()
        if len(longer) > most:
            break
        kept = longer
    if kept:
        return kept
    cut = line[: most + 1]
    return (cut.rsplit(" ", 1)[0] if " " in cut else line[:most]).rstrip(" ,;:")


def with_history(template: str, question: str, age: float, answer: str) -> str:
    """The question with an earlier answer.

    Args:
        age: of that answer, in seconds between the captures of the two frames.
    """
    return template.format(question=question, age=age, answer=condensed(answer))
