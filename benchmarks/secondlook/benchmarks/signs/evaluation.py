"""Ask the model about signs pictures, through the real edge code and JPEG, with a second look every time.

One index is one picture: a question to read a number, and on every fourth picture one of each other type.
Pictures are drawn, coded as a camera would, opened by the edge, and never exist anywhere else. Work is spread
over processes picture by picture; each picture is a function of (split, seed, index), so the spread changes
nothing.
"""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch

from secondlook.benchmarks.records import LoggedLook, Record
from secondlook.benchmarks.signs.questions import Question, all_questions, is_correct
from secondlook.benchmarks.signs.render import render
from secondlook.benchmarks.signs.scene import Scene, Split, sample_scene, scene_generator
from secondlook.edge.geometry import Region
from secondlook.edge.imaging import Picture, decode_jpeg, open_picture
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.loading import load_model
from secondlook.engine.looks import Engine, Look

__all__ = ["CAMERA_QUALITY", "SignsPicture", "evaluate", "signs_picture"]

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
    buffer = io.BytesIO()
    render(scene).save(buffer, "JPEG", quality=CAMERA_QUALITY, subsampling="4:2:0")
    return SignsPicture(index, scene, buffer.getvalue(), tuple(chosen))


def evaluate(
    model: str, split: Split, seed: int, indices: Sequence[int], processes: int, dtype: str = "auto"
) -> Iterator[list[Record]]:
    """Records of each picture, in the order of `indices`. The caller shows progress and keeps the log."""
    if processes == 1:
        ask = _asker(model, dtype)
        for index in indices:
            yield ask(split, seed, index)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _start_worker) as pool:
        yield from pool.imap(
            _ask_in_worker, [(model, dtype, split, seed, index) for index in indices], chunksize=4
        )


def _start_worker() -> None:
    torch.set_num_threads(1)


def _ask_in_worker(task: tuple[str, str, Split, int, int]) -> list[Record]:
    model, dtype, split, seed, index = task
    return _asker(model, dtype)(split, seed, index)


@lru_cache(maxsize=1)
def _asker(model: str, dtype: str) -> Callable[[Split, int, int], list[Record]]:
    engine = Engine(load_model(model, dtype=dtype))  # type: ignore[arg-type]  # load_model refuses what is none

    def ask(split: Split, seed: int, index: int) -> list[Record]:
        test = signs_picture(split, seed, index)
        picture = open_picture(test.jpeg)
        return [_record(engine, test, picture, question) for question in test.questions]

    return ask


def _record(engine: Engine, test: SignsPicture, picture: Picture, question: Question) -> Record:
    side, mode = engine.card.image_size, engine.card.resize_mode
    sent = picture.global_image(side, mode)
    received = decode_jpeg(sent.jpeg)
    first = engine.first_look(received, question.text, picture.size, AnswerOptions(second_look="always"))
    region: Region | None = None
    second: LoggedLook | None = None
    hit: bool | None = None
    if first.pending is not None:
        region = first.pending.region
        crop = picture.local_image(region, side)
        final = engine.second_look(first.pending, decode_jpeg(crop.jpeg))
        second = _logged(engine, question, final.second, crop.size.pixels, len(crop.jpeg))
        if question.sign is not None:
            hit = region.contains(question.sign.x, question.sign.y)
    return Record(
        index=test.index,
        type=question.type,
        question=question.text,
        truth=question.answer,
        first=_logged(engine, question, first.look, sent.size.pixels, len(sent.jpeg)),
        second=second,
        region=None if region is None else region.as_tuple(),
        region_hit=hit,
        original_pixels=picture.size.pixels,
        original_bytes=len(test.jpeg),
    )


def _logged(engine: Engine, question: Question, look: Look, pixels: int, sent: int) -> LoggedLook:
    rows, columns = engine.model.grid
    score = float(is_correct(question, look.text))
    return LoggedLook(look.text, score, look.tokens, pixels, sent, rows * columns)
