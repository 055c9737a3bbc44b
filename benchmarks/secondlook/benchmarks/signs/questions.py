"""The questions of a scene, their true answers, and how an answer is scored.

Three types: `read` (the number on the sign of one colour), `exists` (is there a sign of this colour: yes or
no, as in POPE) and `describe` (the colours from left to right). The first wording of each type is the one
that tests ask; training uses all of them. `describe` includes the generic question that relative attention
is taken against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from secondlook.benchmarks.datasets.scoring import as_submitted
from secondlook.benchmarks.signs.scene import COLOURS, Scene, Sign

QuestionType = Literal["read", "exists", "describe"]

WORDINGS: Final[dict[QuestionType, tuple[str, ...]]] = {
    "read": (
        "What number is on the {colour} sign?",
        "Read the number on the {colour} sign.",
        "Which number does the {colour} sign show?",
    ),
    "exists": (
        "Is there a {colour} sign in the picture?",
        "Do you see a {colour} sign?",
        "Is there a {colour} sign in the image?",
    ),
    "describe": ("Write a general description of the image.", "Describe the picture."),
}


@dataclass(frozen=True)
class Question:
    """A question, its true answer, and the sign it is about (None: no single one)."""

    type: QuestionType
    text: str
    answer: str
    sign: Sign | None


def all_questions(scene: Scene, wording: int = 0) -> dict[QuestionType, list[Question]]:
    """Every question that can be asked of the scene, by type, in one wording (taken modulo their number)."""

    def text(kind: QuestionType, colour: str = "") -> str:
        wordings = WORDINGS[kind]
        return wordings[wording % len(wordings)].format(colour=colour)

    signs = {sign.colour: sign for sign in scene.signs}
    return {
        "read": [Question("read", text("read", s.colour), str(s.number), s) for s in scene.signs],
        "exists": [
            Question("exists", text("exists", c), "yes" if c in signs else "no", signs.get(c))
            for c in COLOURS
        ],
        "describe": [Question("describe", text("describe"), describe(scene), None)],
    }


def describe(scene: Scene) -> str:
    """The signs' colours from left to right: "signs in red, blue and green"."""
    colours = [sign.colour for sign in scene.signs]
    if len(colours) == 1:
        return f"signs in {colours[0]}"
    return f"signs in {', '.join(colours[:-1])} and {colours[-1]}"


def is_correct(question: Question, answer: str) -> bool:
    """Exact match after lower-casing and dropping surrounding space and a final period."""
    return as_submitted(answer) == question.answer
