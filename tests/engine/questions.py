"""A picture, a question and their looks, for tests of the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from engine.checkpoints import IMAGE_SIZE
from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.engine import Engine
from secondlook.engine.results import FirstLook, Pending

QUESTION = "What is the number on the sign?"
LARGE = Size(1000, 800)


def picture(seed: int, size: tuple[int, int] = (IMAGE_SIZE, IMAGE_SIZE)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def first(engine: Engine, original: Size = LARGE, **options: Any) -> FirstLook:
    return engine.first_look(picture(1), QUESTION, original, AnswerOptions(**options))


def pending_look(engine: Engine, **options: Any) -> Pending:
    pending = first(engine, second_look="always", **options).pending
    assert pending is not None
    return pending
