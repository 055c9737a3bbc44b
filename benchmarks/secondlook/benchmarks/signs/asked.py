"""Signs, for the gate of an exported encoder."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Final

from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.benchmarks.signs.questions import all_questions
from secondlook.export.gate import GatePicture

_SEED: Final = 5
_EXISTENCE: Final = 2


def asked_pictures() -> Iterator[GatePicture]:
    """Pictures without end, always the same, with about five questions each: every sign's number, and whether
    there is a sign of two of the colours.

    Not what the picture shows: the generic question's relative attention is one everywhere, and a region that
    is found in rounding says nothing of an encoder.
    """
    for index in count():
        picture = SignsPicture("calibration", _SEED, index)
        questions = all_questions(picture.scene)
        exists = questions["exists"]
        chosen = exists[index % len(exists) :][:_EXISTENCE]
        texts = (question.text for question in (*questions["read"], *chosen))
        yield GatePicture(picture.read(), tuple(texts))
