"""What every data set comes to: pictures, each with its questions, and how models are asked these.

The wordings are those of LLaVA-1.5's evaluation, which the compared papers take over
(https://github.com/haotian-liu/LLaVA, docs/Evaluation.md): each instruction in a line of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Final, Protocol

from secondlook.edge.errors import SecondLookError
from secondlook.edge.geometry import Rectangle

SHORT_ANSWER: Final = "Answer the question using a single word or phrase."
ONE_LETTER: Final = "Answer with the option's letter from the given choices directly."
LETTERS: Final = ascii_uppercase
"""What options are called, in order."""


class MissingDataError(SecondLookError):
    """A file or a picture is not there, or cannot be read; the message says where to get it."""


class MalformedDataError(SecondLookError):
    """A file is not in its official layout; the message names record and field."""


class PictureSource(Protocol):
    """Where an original comes from. Travels to other processes, so that the picture itself need not.

    Attributes:
        name: of its file; empty where it has none.
    """

    @property
    def name(self) -> str: ...

    def read(self) -> bytes:
        """The original's file, as its camera stored it."""


@dataclass(frozen=True)
class FilePicture:
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise MissingDataError(f"cannot read the picture {self.path}: {error.strerror}") from error

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Question:
    """One question about one picture.

    Attributes:
        id: the data set's own; empty where it has none.
        kind: what results are told apart by, such as a split or a type of answer.
        text: all that is asked, options and further tokens too, without the instruction.
        instruction: how to answer; it goes into a line of its own behind the text. May be empty.
        answers: the right ones, as they were given.
        truth: the right answer, for people.
        scorer: (an answer's text, the right answers) → 0 to 1; a function of a module, so that it can travel.
        options: what to choose from, in the order asked; empty unless it is multiple choice.
        boxes: where what is asked for is, in original pixels; empty where that is not known.
    """

    id: str
    kind: str
    text: str
    instruction: str
    answers: tuple[str, ...]
    truth: str
    scorer: Callable[[str, Sequence[str]], float] = field(repr=False, compare=False)
    options: tuple[str, ...] = ()
    boxes: tuple[Rectangle, ...] = ()

    def asked(self, suffix: str = "", *, brief: bool = False) -> str:
        """The question as a model is asked it that puts `suffix` behind every question itself, and whose
        prompt, if `brief`, asks for a short answer anyway."""
        given = (suffix, SHORT_ANSWER) if brief else (suffix,)
        own = self.instruction and self.instruction not in given
        return f"{self.text}\n{self.instruction}" if own else self.text

    def score(self, answer: str) -> float:
        """How right an answer is, by the data set's official scorer."""
        return self.scorer(answer, self.answers)


@dataclass(frozen=True)
class AskedPicture:
    """One original and all questions about it. `index` is its place in the data set."""

    index: int
    source: PictureSource
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class DataSet:
    """Pictures with questions.

    Attributes:
        name: as in `secondlook eval NAME`.
        settings: all that what is asked depends on, for JSON: versions and digests of files, variants, seeds.
    """

    name: str
    settings: dict[str, Any]
    pictures: Sequence[AskedPicture]

    def first(self, count: int | None) -> DataSet:
        """With its first pictures only, or all of them for None."""
        return self if count is None else replace(self, pictures=self.pictures[:count])


def shuffled(count: int, seed: int, name: str) -> list[int]:
    """The numbers below `count` in an order that depends on seed and name alone, for ever the same."""
    return sorted(range(count), key=lambda place: hashlib.sha256(f"{seed} {name} {place}".encode()).digest())
