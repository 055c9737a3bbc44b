"""Signs as a data set: pictures drawn when they are asked about, coded as a camera would.

One index is one picture: a question to read a number, and on every fourth picture one of each other type.
Each picture is a function of (split, seed, index), so how work is spread over processes changes nothing.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from secondlook.benchmarks.datasets.question import AskedPicture, DataSet
from secondlook.benchmarks.datasets.question import Question as AskedQuestion
from secondlook.benchmarks.datasets.scoring import gqa_score
from secondlook.benchmarks.signs.questions import Question, all_questions
from secondlook.benchmarks.signs.render import render
from secondlook.benchmarks.signs.scene import Scene, Split, sample_scene, scene_generator

CAMERA_QUALITY: Final = 92
"""JPEG quality of the originals."""

_EXTRAS_EVERY: Final = 4


@dataclass(frozen=True)
class SignsPicture:
    """One original, drawn when it is read, and what is asked about it."""

    split: Split
    seed: int
    index: int

    @property
    def name(self) -> str:
        return ""

    @property
    def scene(self) -> Scene:
        return self._asked[0]

    @property
    def questions(self) -> tuple[Question, ...]:
        return self._asked[1]

    @cached_property
    def _asked(self) -> tuple[Scene, tuple[Question, ...]]:
        rng = scene_generator(self.split, self.seed, self.index)
        scene = sample_scene(rng)
        while not scene.signs:
            scene = sample_scene(rng)
        questions = all_questions(scene)
        chosen = [questions["read"][rng.integers(len(scene.signs))]]
        if self.index % _EXTRAS_EVERY == 0:
            wanted = "yes" if rng.random() < 0.5 else "no"
            candidates = [question for question in questions["exists"] if question.answer == wanted]
            chosen += [candidates[rng.integers(len(candidates))], *questions["describe"]]
        return scene, tuple(chosen)

    def read(self) -> bytes:
        buffer = io.BytesIO()
        render(self.scene).save(buffer, "JPEG", quality=CAMERA_QUALITY, subsampling="4:2:0")
        return buffer.getvalue()

    def __str__(self) -> str:
        return f"signs picture {self.index}"


def signs_data_set(split: Split, seed: int, count: int) -> DataSet:
    """The first `count` pictures. The count is no setting: a run may be continued with more."""
    settings = {"split": split, "seed": seed, "camera_quality": CAMERA_QUALITY}
    drawn = (SignsPicture(split, seed, index) for index in range(count))
    pictures = (AskedPicture(one.index, one, tuple(map(_asked, one.questions))) for one in drawn)
    return DataSet("signs", settings, tuple(pictures))


def _asked(question: Question) -> AskedQuestion:
    boxes, right = () if question.sign is None else (question.sign.plate,), question.answer
    return AskedQuestion("", question.type, question.text, "", (right,), right, gqa_score, boxes=boxes)
