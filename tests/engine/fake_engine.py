"""An engine without a model, for the server's tests, and pictures to ask it about."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from typing import Any, cast

from PIL import Image

from secondlook.edge.geometry import Region, Size
from secondlook.edge.wire import AnswerOptions, LookSeconds, ModelCard
from secondlook.engine.errors import QuestionTooLongError
from secondlook.engine.looks import FinalAnswer, FirstLook, Look, Pending
from secondlook.engine.policy import Policy
from secondlook.engine.uncertainty import TokenStatistics

SIDE = 32
ORIGINAL = Size(400, 300)
REGION = Region(100, 50, 196, 114)  # 96x64 pixels: sent as 32x21
CACHE_BYTES = 1000


@dataclass(frozen=True)
class _FakePrefix:
    nbytes: int = CACHE_BYTES


def look(text: str, doubt: float) -> Look:
    token = TokenStatistics(min_entropy=doubt, shannon_entropy=doubt, margin=0.5, is_eos=True)
    return Look(text, (7,), (token,), doubt)


class FakeEngine:
    """Answers by what the question says.

    "sure" is answered at once, "broken" raises RuntimeError, "endless" is too long, anything else is unsure.
    `gate`, when cleared, holds every look; `entered` is released by each look that begins.
    """

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.threads: set[str] = set()
        self.first_looks = 0
        self.second_looks = 0
        self.break_second = False

    @property
    def card(self) -> ModelCard:
        return ModelCard(name="fake", image_size=SIDE, resize_mode="squash", threshold=0.5)

    def first_look(
        self, global_image: Image.Image, question: str, original: Size, options: AnswerOptions
    ) -> FirstLook:
        self._enter()
        self.first_looks += 1
        assert global_image.size == (SIDE, SIDE)
        if question == "broken":
            raise RuntimeError("secret detail")
        if question == "endless":
            raise QuestionTooLongError("the question does not fit the context")
        sure = question == "sure" or options.second_look == "never"
        first = look(f"first to {question}", 0.1 if sure else 0.9)
        seconds = LookSeconds(encode=0.25)
        if sure:
            return FirstLook(first, "sure", None, None, None, seconds)
        policy = Policy(0.5).with_options(options)
        pending = Pending(cast(Any, _FakePrefix()), question, first, REGION, policy, 20)
        return FirstLook(first, "unsure", REGION, pending, None, seconds)

    def second_look(self, pending: Pending, local_image: Image.Image) -> FinalAnswer:
        self._enter()
        self.second_looks += 1
        if self.break_second:
            raise RuntimeError("secret detail")
        second = look(f"second to {pending.question}", 0.2)
        return FinalAnswer(pending.first, second, "took_second", pending.region, LookSeconds(decode=0.5))

    def _enter(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.entered.release()
        assert self.gate.wait(timeout=60)


def jpeg(width: int = SIDE, height: int = SIDE) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(buffer, "JPEG")
    return buffer.getvalue()
