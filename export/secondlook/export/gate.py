"""The gate: an encoder is what torch computes in float32, within what its precision allows, or is refused.

What is made of each picture, features and what a question makes of them, is compared: the Frobenius norm of
the difference over that of torch's, ‖candidate - torch‖ / ‖torch‖, of which the largest counts. What a
question's rows looked at counts in float32 alone, for softmax enlarges what rounding does to its scores: of
other precisions the regions tell. Then the whole two looks are compared, answer by answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Final, TypeVar

import torch
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor

from secondlook.edge.geometry import Region
from secondlook.edge.validation import validated
from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.decode.flows import Request
from secondlook.engine.encoders.manifest import TOLERANCES, GraphDType, Parity
from secondlook.engine.engine import Engine
from secondlook.engine.errors import NonFiniteError
from secondlook.engine.local import LocalEdge
from secondlook.engine.method.policy import Policy
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.pictures import Picture
from secondlook.engine.results import FinalAnswer, FirstLook, Look, Pending
from secondlook.export.errors import ExportError, Failure, GateError

__all__ = ["LEAST_QUESTIONS", "AnswerTally", "GatePicture", "GateSettings", "ask_both", "pass_gate"]

_Result = TypeVar("_Result")

LEAST_QUESTIONS: Final = 200
"""What an export is asked before it gets a manifest."""

_ENTROPY: Final = 0.02
"""Nats by which an answer's mean min-entropy may differ."""

_SAME_REGIONS: Final = 0.98

_ROUNDING: Final[dict[GraphDType, float]] = {
    "float32": 1e-3,
    "float16": 2**-6,
    "bfloat16": 2**-3,
    "int8": 2**-3,
}
"""Nats between torch's two best tokens that count as none: in half precision the distance of two neighbours
between 16 and 32, where best logits are; in float32 far more than that, and still far less than any doubt."""


@validated(frozen=True)
class GateSettings:
    """How much is compared.

    Attributes:
        pictures: of which the features are compared.
        questions: asked with both encoders, looking twice.
    """

    pictures: PositiveInt = 16
    questions: PositiveInt = LEAST_QUESTIONS


@dataclass(frozen=True)
class GatePicture:
    """An original, as its camera stored it, and what is asked about it."""

    jpeg: bytes
    questions: tuple[str, ...]


@dataclass
class AnswerTally:
    """What came out of the questions so far; see `Parity`.

    Attributes:
        rounding: nats between torch's two best tokens below which they count as equal.
        entropy_moved: the sum of what min-entropy differs by.
        worst_question: of the largest difference.
        overlap: the sum of what two regions have in common, of what both cover.
        different: for each answer that differs beyond rounding, the question and both answers.
    """

    rounding: float
    questions: int = 0
    answers: int = 0
    same_answers: int = 0
    within_rounding: int = 0
    entropy_difference: float = 0.0
    entropy_moved: float = 0.0
    worst_question: str = ""
    regions: int = 0
    same_regions: int = 0
    overlap: float = 0.0
    different: list[str] = field(default_factory=list)

    def add(self, question: str, theirs: Look, mine: Look) -> None:
        """Compare torch's look with the candidate's."""
        self.answers += 1
        if theirs.token_ids == mine.token_ids:
            self.same_answers += 1
            difference = abs(theirs.uncertainty - mine.uncertainty)
            self.entropy_moved += difference
            if difference > self.entropy_difference:
                self.entropy_difference, self.worst_question = difference, question
        elif (gap := _gap(theirs, mine)) <= self.rounding:
            self.within_rounding += 1
        else:
            told = f"{question!r}: {mine.text!r}, not {theirs.text!r}, which torch prefers by {gap:.3f} nats"
            self.different.append(told)


def pass_gate(
    what: str,
    model: VisionLanguageModel,
    candidate: VisionLanguageModel,
    dtype: GraphDType,
    asked: Iterator[GatePicture],
    settings: GateSettings,
    found: Sequence[Failure] = (),
) -> Parity:
    """Compare an encoder with the model's own in torch.

    Args:
        what: is compared, for messages.
        model: in float32, with its own encoder.
        candidate: the same model with the encoder in question.
        dtype: that this one computes in: it decides the tolerance.
        asked: pictures and questions, as many as are needed.
        found: what is known to be wrong already; where that is the interface, nothing is run.

    Raises:
        GateError: everything that failed.
        ExportError: there are not enough questions.
    """
    assert model.dtype == torch.float32, "the gate compares with float32"
    if any(failure.check == "interface" for failure in found):
        raise GateError(what, found)  # a runtime would refuse what it is given, and tell less
    pictures = list(_enough(asked, settings))
    with _full_precision():
        compared = [(_picture(model, one), one.questions[0]) for one in pictures[: settings.pictures]]
        error, failures = _compare_features(model, candidate, compared, dtype)
        if any(failure.check == "interface" for failure in failures):
            raise GateError(what, [*found, *failures])  # no answer can be made of such features
        tally = AnswerTally(_ROUNDING[dtype])
        try:
            _compare_answers(model, candidate, _until(settings.questions, pictures, tally), tally)
        except NonFiniteError as failed:
            failures.append(Failure("finite", f"no answer after {tally.questions} questions: {failed}"))
    failures = [*found, *failures, *_judge(tally)]
    if failures:
        raise GateError(what, failures)
    counts = {name: value for name, value in asdict(tally).items() if name in Parity.__dataclass_fields__}
    return Parity(relative_error=error, tolerance=TOLERANCES[dtype], pictures=len(compared), **counts)


def ask_both(
    model: VisionLanguageModel,
    candidate: VisionLanguageModel,
    asked: Iterator[GatePicture],
    settings: GateSettings,
    tally: AnswerTally,
) -> None:
    """Compare the answers of two models alone, on as many questions as the settings say.

    Raises:
        ExportError: there are not enough questions.
        NonFiniteError: the candidate made NaN or infinity of a picture.
    """
    assert model.dtype == torch.float32, "the gate compares with float32"
    with _full_precision():
        pictures = list(_enough(asked, settings))
        _compare_answers(model, candidate, _until(settings.questions, pictures, tally), tally)


def _enough(asked: Iterator[GatePicture], settings: GateSettings) -> Iterator[GatePicture]:
    """As many pictures as have that many questions, and at least as many as are compared."""
    pictures = questions = 0
    for one in asked:
        pictures, questions = pictures + 1, questions + len(one.questions)
        yield one
        if pictures >= settings.pictures and questions >= settings.questions:
            return
    raise ExportError(
        f"there are only {questions} questions about {pictures} pictures, and {settings.questions} about "
        f"{settings.pictures} must be asked"
    )


def _until(questions: int, pictures: Sequence[GatePicture], tally: AnswerTally) -> Iterator[GatePicture]:
    """As many of the pictures as it takes to ask that many questions."""
    for one in pictures:
        if tally.questions >= questions:
            return
        yield one


def _picture(model: VisionLanguageModel, asked: GatePicture) -> Picture:
    edge = LocalEdge(asked.jpeg, model.global_view, model.local_view)
    return model.picture(edge.global_image(), model.global_view, edge.size)


def _compare_features(
    model: VisionLanguageModel,
    candidate: VisionLanguageModel,
    asked: Sequence[tuple[Picture, str]],
    dtype: GraphDType,
) -> tuple[float, list[Failure]]:
    """The largest relative error, and what is wrong; one picture and two at a time, as a look has them."""
    worst, rest, size = 0.0, iter(asked), 1
    while some := list(islice(rest, size)):
        pairs = zip(*(_made(each, some, dtype) for each in (model, candidate)), strict=True)
        for theirs, mine in pairs:
            if mine.shape != theirs.shape:
                shapes = f"{tuple(mine.shape)}, not {tuple(theirs.shape)}"
                return worst, [Failure("interface", f"the features have the shape {shapes}")]
            if not bool(mine.isfinite().all()):
                bad = int((~mine.isfinite()).sum())
                return worst, [Failure("finite", f"{bad} of {mine.numel()} features are NaN or infinite")]
            worst = max(worst, float((mine - theirs).norm() / theirs.norm()))
        size = 3 - size
    tolerance = TOLERANCES[dtype]
    if worst <= tolerance:
        return worst, []
    return worst, [Failure("features", f"the relative error is {worst:.2e}, more than {tolerance:.0e}")]


def _made(
    model: VisionLanguageModel, asked: Sequence[tuple[Picture, str]], dtype: GraphDType
) -> Iterator[Tensor]:
    """All that an encoder makes of pictures and of the questions about them."""
    for features, (_, question) in zip(model.encode([one for one, _ in asked]), asked, strict=True):
        yield from (features.tokens, *features.deep)
        rows, looked = model.condition(features, model.tokens(question))
        if rows is not features:
            yield from (rows.tokens, *rows.deep)
        if looked is not None and dtype == "float32":
            yield looked


def _judge(tally: AnswerTally) -> list[Failure]:
    failures = []
    if tally.different:
        told = f"{len(tally.different)} of {tally.answers} answers differ beyond rounding"
        failures.append(Failure("answers", f"{told}, such as to {tally.different[0]}"))
    if tally.entropy_difference > _ENTROPY:
        told = f"the mean min-entropy of an answer differs by {tally.entropy_difference:.3f} nats"
        failures.append(Failure("uncertainty", f"{told}, more than {_ENTROPY}, to {tally.worst_question!r}"))
    if tally.questions and not tally.regions:
        failures.append(Failure("regions", "no question had a second look, so no region was compared"))
    if tally.same_regions < _SAME_REGIONS * tally.regions:
        told = f"{tally.same_regions} of {tally.regions} regions are the same"
        failures.append(Failure("regions", f"{told}, fewer than {_SAME_REGIONS:.0%}"))
    return failures


@contextmanager
def _full_precision() -> Iterator[None]:
    """Without the ten bits of TF32, which cuDNN's convolutions have in float32 by default."""
    backend = torch.backends.cudnn
    before, backend.allow_tf32 = backend.allow_tf32, False
    try:
        yield
    finally:
        backend.allow_tf32 = before


def _compare_answers(
    reference: VisionLanguageModel,
    candidate: VisionLanguageModel,
    asked: Iterable[GatePicture],
    tally: AnswerTally,
) -> None:
    """Ask every question with both, looking twice, and add what came out to `tally`.

    Second looks are compared where both found the same region.

    Raises:
        NonFiniteError: the candidate made NaN or infinity of a picture.
    """
    engines = [  # which look twice at everything
        Engine(model, Policy(threshold=0.0), cache=CacheSettings(most_slots=8))
        for model in (reference, candidate)
    ]
    for one in asked:
        edge = LocalEdge(one.jpeg, reference.global_view, reference.local_view)
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
            tally.overlap += 0.0 if mine.region is None else _overlap(theirs.region, mine.region)
            if mine.region == theirs.region and mine.pending is not None:
                tally.same_regions += 1
                again.append((question, edge.local_image(theirs.region), theirs.pending, mine.pending))
        finals = [
            _second_looks(engine, [(pending[index], image) for _, image, *pending in again])
            for index, engine in enumerate(engines)
        ]
        for (question, *_), their_final, my_final in zip(again, *finals, strict=True):
            tally.add(question, their_final.second, my_final.second)


def _overlap(one: Region, other: Region) -> float:
    """What two regions have in common, of what both cover."""
    wide = min(one.right, other.right) - max(one.left, other.left)
    high = min(one.bottom, other.bottom) - max(one.top, other.top)
    common = max(0, wide) * max(0, high)
    areas = [(each.right - each.left) * (each.bottom - each.top) for each in (one, other)]
    return common / (sum(areas) - common)


def _first_looks(
    engine: Engine, edge: LocalEdge, global_image: Image.Image, questions: Sequence[str]
) -> list[FirstLook]:
    asked = [engine.prepare(global_image, question, edge.size) for question in questions]
    return _done(engine, [engine.start_first_look(one) for one in asked])


def _second_looks(engine: Engine, looks: Sequence[tuple[Pending, Image.Image]]) -> list[FinalAnswer]:
    sent = [(pending, engine.prepare_local(pending, image)) for pending, image in looks]
    return _done(engine, [engine.start_second_look(*one) for one in sent])


def _done(engine: Engine, requests: Sequence[Request[_Result]]) -> list[_Result]:
    while engine.round():
        pass
    return [request.future.result() for request in requests]


def _gap(theirs: Look, mine: Look) -> float:
    """Nats between torch's two best tokens where the answers first differ."""
    pairs = zip(theirs.token_ids, mine.token_ids, strict=False)
    same = next((index for index, (a, b) in enumerate(pairs) if a != b), len(theirs.token_ids) - 1)
    token = theirs.tokens[same]
    second = token.second_probability
    return math.log(token.max_probability / second) if second > 0 else math.inf
