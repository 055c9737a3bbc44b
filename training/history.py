"""Questions with a line of history behind them: an earlier answer and its age, as a stream has them.

    What number is on the red sign? (0.8 s ago: 75)

Where the picture shows the number, it wins; where it does not, the line is all there is to know. Earlier
answers about digits too small to read are stale the more often the older they are; about readable ones as
often as not, so that there is something to learn from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from secondlook.benchmarks.signs.questions import Question, QuestionType
from secondlook.benchmarks.signs.scene import COLOURS, Scene, Sign

__all__ = ["READABLE", "TEMPLATE", "another", "recalling", "shrunk", "unanswerable", "with_history"]

TEMPLATE: Final = "{question} ({age:.1f} s ago: {answer})"

READABLE: Final = 9.0
"""Digit height, in pixels of the global image, from which the picture is to be believed."""

_STALE_AFTER: Final = 15.0
"""Seconds; what was seen t seconds ago still holds with a chance of exp(-t / 15)."""

_ABSENT: Final = 2
_SHRUNK: Final = 0.3
_SMALLEST: Final = 3.6


def with_history(question: Question, age: float, answer: str) -> Question:
    """The question with an earlier answer, `age` seconds old; the true answer stays."""
    return replace(question, text=TEMPLATE.format(question=question.text, age=age, answer=answer))


def another(number: int, rng: np.random.Generator) -> int:
    """A wrong number: any, or one with a digit in common."""
    other = number
    while other == number:
        tens, units = divmod(number, 10)
        if rng.random() < 0.6:
            other = int(rng.integers(10, 100))
        elif rng.random() < 0.5:
            other = 10 * int(rng.integers(1, 10)) + units
        else:
            other = 10 * tens + int(rng.integers(10))
    return other


def recalling(
    questions: dict[QuestionType, list[Question]], readable: Sequence[Sign], rng: np.random.Generator
) -> list[Question]:
    """Questions with history about a scene: a number for every sign and for some that are not there, whose
    answer is the earlier one; and whether there is a sign, which the picture always tells.

    Args:
        questions: all of the scene, without.
        readable: signs whose number the picture shows.
    """
    asked = []
    for question in questions["read"]:
        assert question.sign is not None
        number, age = question.sign.number, _age(rng)
        stale = 0.5 if question.sign in readable else 1 - np.exp(-age / _STALE_AFTER)
        earlier = another(number, rng) if rng.random() < stale else number
        asked.append(with_history(question, age, str(earlier)))
    absent = unanswerable(questions, rng)[:_ABSENT]
    asked += [with_history(question, _age(rng), question.answer) for question in absent]
    if rng.random() < 0.5:
        exists = questions["exists"][rng.integers(len(questions["exists"]))]
        asked.append(with_history(exists, _age(rng), "yes" if rng.random() < 0.5 else "no"))
    return asked


def unanswerable(questions: dict[QuestionType, list[Question]], rng: np.random.Generator) -> list[Question]:
    """Which number is on signs that are not there: every one is as good an answer."""
    some = questions["read"][0]
    assert some.sign is not None
    absent = [
        colour for colour, asked in zip(COLOURS, questions["exists"], strict=True) if asked.sign is None
    ]
    return [
        Question("read", some.text.replace(some.sign.colour, colour), str(rng.integers(10, 100)), None)
        for colour in rng.permutation(absent)
    ]


def shrunk(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with some readable signs made smaller where they are, down to hardly readable."""
    signs = []
    for sign in scene.signs:
        height = scene.global_digit_height(sign)
        if height > _SMALLEST and rng.random() < _SHRUNK:
            smaller = _SMALLEST * (min(height, 13.0) / _SMALLEST) ** rng.random()
            sign = replace(sign, digit_height=sign.digit_height * smaller / height)
        signs.append(sign)
    return replace(scene, signs=tuple(signs))


def _age(rng: np.random.Generator) -> float:
    """Seconds: mostly below ten, now and then up to a minute."""
    return float(rng.uniform(0, 10 if rng.random() < 0.9 else 60))
