"""The gate's second half: the same questions asked with two encoders, answer by answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from PIL import Image

from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.decode.scheduler import Request
from secondlook.engine.engine import Engine, FinalAnswer, FirstLook, Look, Pending
from secondlook.engine.local import LocalEdge
from secondlook.engine.method.policy import Policy
from secondlook.engine.models.llava import LlavaAdapter

__all__ = ["AnswerTally", "GatePicture", "compare_answers"]

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class GatePicture:
    """An original, as its camera stored it, and what is asked about it."""

    jpeg: bytes
    questions: tuple[str, ...]


@dataclass
class AnswerTally:
    """What came out of the questions so far; see `secondlook.engine.encoders.manifest.Parity`.

    Attributes:
        rounding: nats between torch's two best tokens below which they count as equal.
        worst_question: of the largest difference of min-entropy.
        different: for each answer that differs beyond rounding, the question and both answers.
    """

    rounding: float
    questions: int = 0
    answers: int = 0
    same_answers: int = 0
    within_rounding: int = 0
    entropy_difference: float = 0.0
    worst_question: str = ""
    regions: int = 0
    same_regions: int = 0
    different: list[str] = field(default_factory=list)

    def add(self, question: str, theirs: Look, mine: Look) -> None:
        """Compare torch's look with the candidate's."""
        self.answers += 1
        if theirs.token_ids == mine.token_ids:
            self.same_answers += 1
            difference = abs(theirs.uncertainty - mine.uncertainty)
            if difference > self.entropy_difference:
                self.entropy_difference, self.worst_question = difference, question
        elif (gap := _gap(theirs, mine)) <= self.rounding:
            self.within_rounding += 1
        else:
            told = f"{question!r}: {mine.text!r}, not {theirs.text!r}, which torch prefers by {gap:.3f} nats"
            self.different.append(told)


def compare_answers(
    reference: LlavaAdapter, candidate: LlavaAdapter, asked: Iterable[GatePicture], tally: AnswerTally
) -> None:
    """Ask every question with both, looking twice, and add what came out to `tally`.

    Second looks are compared where both found the same region.

    Raises:
        NonFiniteError: the candidate made NaN or infinity of a picture.
    """
    engines = [_engine(reference), _engine(candidate)]
    for one in asked:
        edge = LocalEdge(one.jpeg, reference.image_size, reference.settings.resize_mode)
        global_image = edge.global_image()
        firsts = [_first_looks(engine, edge, global_image, one.questions) for engine in engines]
        pairs = list(zip(one.questions, *firsts, strict=True))
        tally.questions += len(pairs)
        again = []
        for question, theirs, mine in pairs:
            tally.add(question, theirs.look, mine.look)
            if theirs.region is None or theirs.pending is None:
                continue
            tally.regions += 1
            if mine.region == theirs.region and mine.pending is not None:
                tally.same_regions += 1
                again.append((question, edge.local_image(theirs.region), theirs.pending, mine.pending))
        finals = [
            _second_looks(engine, [(pending[index], image) for _, image, *pending in again])
            for index, engine in enumerate(engines)
        ]
        for (question, *_), their_final, my_final in zip(again, *finals, strict=True):
            tally.add(question, their_final.second, my_final.second)


def _engine(model: LlavaAdapter) -> Engine:
    """One that looks twice at everything."""
    return Engine(model, Policy(threshold=0.0), cache=CacheSettings(most_slots=8))


def _first_looks(
    engine: Engine, edge: LocalEdge, global_image: Image.Image, questions: Sequence[str]
) -> list[FirstLook]:
    tasks = [engine.start_first_look(global_image, question, edge.size) for question in questions]
    return _done(engine, tasks)


def _second_looks(engine: Engine, looks: Sequence[tuple[Pending, Image.Image]]) -> list[FinalAnswer]:
    return _done(engine, [engine.start_second_look(pending, image) for pending, image in looks])


def _done(engine: Engine, tasks: Sequence[Request[_Result]]) -> list[_Result]:
    while engine.round():
        pass
    return [task.future.result() for task in tasks]


def _gap(theirs: Look, mine: Look) -> float:
    """Nats between torch's two best tokens where the answers first differ."""
    pairs = zip(theirs.token_ids, mine.token_ids, strict=False)
    same = next((index for index, (a, b) in enumerate(pairs) if a != b), len(theirs.token_ids) - 1)
    token = theirs.tokens[same]
    second = token.second_probability
    return math.log(token.max_probability / second) if second > 0 else math.inf
