"""Signs as a data set: pictures drawn when they are asked about, coded as a camera would.

One index is one picture: a question to read a number, and on every fourth picture one of each other type.
Each picture is a function of (split, seed, index), so how work is spread over processes changes nothing.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
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
    """One original as its camera stored it, and what is asked about it."""

    index: int
    scene: Scene
    jpeg: bytes
    questions: tuple[Question, ...]


def signs_picture(split: Split, seed: int, index: int) -> SignsPicture:
    """Draw and encode one picture, and choose its questions."""
    scene, questions = signs_questions(split, seed, index)
    buffer = io.BytesIO()
    render(scene).save(buffer, "JPEG", quality=CAMERA_QUALITY, subsampling="4:2:0")
    return SignsPicture(index, scene, buffer.getvalue(), questions)


def signs_questions(split: Split, seed: int, index: int) -> tuple[Scene, tuple[Question, ...]]:
    """What one picture will show and what is asked about it; nothing is drawn."""
    rng = scene_generator(split, seed, index)
    scene = sample_scene(rng)
    while not scene.signs:
        scene = sample_scene(rng)
    questions = all_questions(scene)
    chosen = [questions["read"][rng.integers(len(scene.signs))]]
    if index % _EXTRAS_EVERY == 0:
        wanted = "yes" if rng.random() < 0.5 else "no"
        candidates = [question for question in questions["exists"] if question.answer == wanted]
        chosen += [candidates[rng.integers(len(candidates))], *questions["describe"]]
    return scene, tuple(chosen)


@dataclass(frozen=True)
class DrawnPicture:
    """An original that is drawn when it is read."""

    split: Split
    seed: int
    index: int

    @property
    def name(self) -> str:
        return ""

    def read(self) -> bytes:
        return signs_picture(self.split, self.seed, self.index).jpeg

    def __str__(self) -> str:
        return f"signs picture {self.index}"


def signs_data_set(split: Split, seed: int, count: int) -> DataSet:
    """The first `count` pictures. The count is no setting: a run may be continued with more."""
    settings = {"split": split, "seed": seed, "camera_quality": CAMERA_QUALITY}
    pictures = []
    for index in range(count):
        _, questions = signs_questions(split, seed, index)
        source = DrawnPicture(split, seed, index)
        pictures.append(AskedPicture(index, source, tuple(map(_asked, questions))))
    return DataSet("signs", settings, tuple(pictures))


def _asked(question: Question) -> AskedQuestion:
    boxes, right = () if question.sign is None else (question.sign.plate,), question.answer
    return AskedQuestion("", question.type, question.text, "", (right,), right, gqa_score, boxes=boxes)
