"""The gate of weights of few bits: with them a model answers, doubts and looks closer nearly as in float32.

Unlike an exported encoder, such a model is not the same but for rounding: what few bits change is bounded, in
the mean over questions that are all looked at twice. The limits leave room over what the embedded model needs
(`docs/models.md`); what is broken, or too coarse for a model, fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from secondlook.edge.errors import SettingsError
from secondlook.engine.errors import NonFiniteError
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.export.errors import Failure, GateError
from secondlook.export.gate import AnswerTally, GatePicture, GateSettings, ask_both

__all__ = ["LIMITS", "BitLimits", "BitParity", "bits_of", "parity_text", "pass_bits"]

_ROUNDING: Final = 2**-3
"""Nats between float32's two best tokens that count as none, as in the gate of int8 graphs."""


@dataclass(frozen=True)
class BitLimits:
    """What may become of a model.

    Attributes:
        answers: the least share of answers that are the same, or differ where two tokens were as good.
        doubt: the most nats that the mean min-entropy of a same answer moves, in the mean.
        regions: the least that a region and float32's have in common, of what both cover, in the mean.
    """

    answers: float
    doubt: float
    regions: float


LIMITS: Final[dict[Literal[4, 8], BitLimits]] = {
    8: BitLimits(answers=0.98, doubt=0.01, regions=0.95),
    4: BitLimits(answers=0.90, doubt=0.05, regions=0.80),
}


@dataclass(frozen=True)
class BitParity:
    """What was measured, against float32.

    Attributes:
        answers: that were compared, of first looks and of second looks at the same region.
        same_answers, within_rounding: see `AnswerTally`.
        doubt: nats that the mean min-entropy of a same answer moved, in the mean.
        most_doubt: the most.
        regions: that were compared.
        same_regions: of them, the same box.
        overlap: what two regions have in common, of what both cover, in the mean.
    """

    questions: int
    answers: int
    same_answers: int
    within_rounding: int
    doubt: float
    most_doubt: float
    regions: int
    same_regions: int
    overlap: float


def bits_of(model: VisionLanguageModel) -> Literal[4, 8]:
    """The fewest bits of its weights.

    Raises:
        SettingsError: they are not of few bits.
    """
    if model.quantised is None:
        raise SettingsError(f"the weights of {model.name} are of full precision: name bits with --quantise")
    return 4 if "int4" in model.quantised else 8


def pass_bits(
    model: VisionLanguageModel,
    candidate: VisionLanguageModel,
    asked: Iterator[GatePicture],
    settings: GateSettings,
) -> BitParity:
    """Compare a model of few bits with one of full precision.

    Args:
        model: in float32.
        candidate: the same one, with weights of few bits.
        asked: pictures and questions, as many as are needed.

    Raises:
        GateError: everything that failed.
        ExportError: there are not enough questions.
        SettingsError: the candidate's weights are not of few bits.
    """
    limits, tally, failures = LIMITS[bits_of(candidate)], AnswerTally(_ROUNDING), list[Failure]()
    try:
        ask_both(model, candidate, asked, settings, tally)
    except NonFiniteError as failed:
        failures.append(Failure("finite", f"no answer after {tally.questions} questions: {failed}"))
    found = BitParity(
        tally.questions,
        tally.answers,
        tally.same_answers,
        tally.within_rounding,
        tally.entropy_moved / max(1, tally.same_answers),
        tally.entropy_difference,
        tally.regions,
        tally.same_regions,
        tally.overlap / max(1, tally.regions),
    )
    failures += _judged(found, tally, limits)
    if failures:
        raise GateError(f"{candidate.name} in {candidate.precision}", failures)
    return found


def _judged(found: BitParity, tally: AnswerTally, limits: BitLimits) -> Iterator[Failure]:
    near = found.same_answers + found.within_rounding
    if near < limits.answers * found.answers:
        told = f"{near} of {found.answers} answers are float32's, fewer than {limits.answers:.0%}"
        yield Failure("answers", f"{told}; others such as to {tally.different[0]}")
    if found.doubt > limits.doubt:
        told = f"the mean min-entropy of an answer moves by {found.doubt:.4f} nats in the mean"
        yield Failure("uncertainty", f"{told}, more than {limits.doubt}")
    if not found.regions:
        yield Failure("regions", "no question had a second look, so no region was compared")
    elif found.overlap < limits.regions:
        told = f"regions and float32's have {found.overlap:.1%} in common"
        yield Failure("regions", f"{told}, less than {limits.regions:.0%}")


def parity_text(found: BitParity) -> str:
    """For people."""
    return (
        f"{found.same_answers} of {found.answers} answers the same, {found.within_rounding} within rounding; "
        f"doubt moves by {found.doubt:.4f} nats in the mean, {found.most_doubt:.3f} at most; "
        f"{found.same_regions} of {found.regions} regions the same, {found.overlap:.1%} in common "
        f"({found.questions} questions)"
    )
