"""Looks that join and give way on one engine, as the tests of every architecture ask them, and what
transformers' `generate` answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from secondlook.edge.geometry import Size
from secondlook.edge.imaging import decode_jpeg, open_picture
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.engine import Engine
from secondlook.engine.models.base import Picture, VisionLanguageModel
from secondlook.engine.results import Look

MOST = 10
TIE = 1e-3
SIZES = st.tuples(st.integers(20, 900), st.floats(1, 16), st.booleans()).map(
    lambda drawn: (drawn[0], max(1, round(drawn[0] / drawn[1])))[:: 1 if drawn[2] else -1]
)
ALWAYS = AnswerOptions(second_look="always", arbitration=False, max_new_tokens=MOST)
Asked = list[tuple[tuple[int, int], str, int]]
"""The originals' sizes, the questions, and the rounds before the next look begins."""


def drawn(size: tuple[int, int], seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def any_pictures(longest: int, ratio: float = 16, least: int = 1) -> Iterator[Image.Image]:
    """Two hundred of random sizes and shapes, always the same.

    Args:
        longest, least: bounds of their sides.
        ratio: of the longer side to the shorter, at most.
    """
    random = np.random.default_rng(5)
    for _ in range(200):
        longer, slender = np.exp(random.uniform(np.log((2, 1)), np.log((longest, ratio))))
        sides = max(least, round(longer)), max(least, round(longer / slender))
        yield drawn(sides[:: random.choice([1, -1])], int(random.integers(1 << 30)))


def asked(questions: st.SearchStrategy[str], most: int = 5) -> st.SearchStrategy[Asked]:
    """Up to so many looks."""
    return st.lists(st.tuples(SIZES, questions, st.integers(0, 6)), min_size=1, max_size=most)


@dataclass(frozen=True)
class Answered:
    """A look that is over.

    Attributes:
        original: what its first picture shows.
        sent: its pictures as they were sent.
        pictures: the same as its model has them.
        ids: of its prompt.
    """

    question: str
    original: Image.Image
    sent: tuple[Image.Image, ...]
    pictures: tuple[Picture, ...]
    ids: tuple[int, ...]
    look: Look


def answered(
    model: VisionLanguageModel, slots: int, asked: Asked, options: AnswerOptions = ALWAYS
) -> list[Answered]:
    """All first looks, then all second ones, which join while others are at any of their rounds.

    Every second picture is the same again, with another question, so that prefixes are kept and given up.
    """
    engine = Engine(model, cache=CacheSettings(most_slots=slots))
    started, second, found = [], [], []
    for number, (_, question, rounds) in enumerate(asked):
        size = asked[number % 2][0]
        image = drawn(size, number % 2)
        original = open_picture(image)
        sent = original.shrunk(model.global_view)
        prepared = engine.prepare(sent, question, Size(*size), options)
        started.append((image, original, sent, prepared, engine.start_first_look(prepared)))
        for _ in range(rounds):
            engine.round()
    while engine.round():
        pass
    for (image, original, sent, prepared, request), (_, question, rounds) in zip(started, asked, strict=True):
        first = request.future.result()
        one = Answered(question, image, (sent,), (prepared.picture,), prepared.prompt.ids, first.look)
        found.append(one)
        if first.pending is None:
            continue
        crop = decode_jpeg(original.local_image(first.pending.region, model.local_view).jpeg)
        local = engine.prepare_local(first.pending, crop)
        second.append((one, crop, local, engine.start_second_look(first.pending, local)))
        for _ in range(rounds):
            engine.round()
    while engine.round():
        pass
    for one, crop, local, final in second:
        pictures, look = (*one.pictures, local.picture), final.future.result().second
        found.append(
            Answered(one.question, one.original, (*one.sent, crop), pictures, local.prompt.ids, look)
        )
    return found


def check_greedy(answer: Sequence[int], model: Any, inputs: dict[str, Tensor]) -> None:
    """An answer of at most `MOST` tokens is the model's own, greedily, through the end token; up to a tie."""
    found = model.generate(
        **inputs,
        max_new_tokens=MOST,
        do_sample=False,
        repetition_penalty=1.0,
        top_p=None,
        top_k=None,
        temperature=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    start = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    expected = found.sequences[0, start:].tolist()
    for ours, theirs, logits in zip(answer, expected, found.logits, strict=False):
        if ours != theirs:  # of random weights and sizes there may be one; what follows is another answer
            assert float(logits[0, theirs] - logits[0, ours]) < TIE, (answer, expected)
            return
    assert list(answer) == expected
