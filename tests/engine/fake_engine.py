"""An engine without a model, for the server's tests, and pictures to ask it about."""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from secondlook.edge.geometry import Region, Size
from secondlook.edge.wire import AnswerOptions, Fixed, LookSeconds, ModelCard, View
from secondlook.engine.decode.flows import Flow, Request
from secondlook.engine.decode.token_options import ONLY_TOKENS, TokenOptions
from secondlook.engine.errors import OutOfMemoryError, QuestionTooLongError
from secondlook.engine.method.maps import AttentionMaps
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.uncertainty import TokenStatistics
from secondlook.engine.models.prompts import DEFAULT_MAX_CHARACTERS, check_question
from secondlook.engine.progress import Stages
from secondlook.engine.results import (
    FinalAnswer,
    FirstLook,
    LocalImage,
    Look,
    Pending,
    Question,
    Usage,
)
from secondlook.engine.sent import check_sent

SIDE = 32
GLOBAL_VIEW = View(size=Fixed(width=SIDE, height=SIDE))
LOCAL_VIEW = View(size=Fixed(width=SIDE, height=SIDE), fit="pad")
ORIGINAL = Size(400, 300)
MAPS = AttentionMaps(torch.tensor([[1.0, 4.0], [0.0, 1.0]]), torch.tensor([[1.0, 2.0], [1.0, 1.0]]))
REGION = Region(100, 50, 196, 114)  # 96x64 pixels: sent as 32x21


def look(text: str, doubt: float) -> Look:
    token = TokenStatistics(min_entropy=doubt, shannon_entropy=doubt, margin=0.5, is_eos=True)
    return Look(text, (7,), (token,), doubt, prompt_tokens=9, visual_tokens=4)


@dataclass(frozen=True, eq=False)
class FakeQuestion(Question):
    nbytes = SIDE * SIDE * 3


@dataclass(frozen=True, eq=False)
class FakeLocal(LocalImage):
    shown: Size


def _flow() -> Flow[Any]:
    yield from ()


class FakeEngine:
    """Answers by what the question says, one look a round.

    "sure" is answered at once, "broken" raises RuntimeError, "crowded" finds no memory, "endless" is too
    long, "long" tells its region before it is complete, which takes until `rest` is set; anything else is
    unsure. `gate`, when cleared, holds every look; `entered` is released by each look that begins.
    """

    max_question_characters = DEFAULT_MAX_CHARACTERS
    context: str | None = None
    outside = None

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.rest = threading.Event()
        self.entered = threading.Semaphore(0)
        self.threads: set[str] = set()
        self.clients: list[str] = []
        self.local_bytes: list[int] = []
        self.first_looks = 0
        self.second_looks = 0
        self.cancelled = 0
        self.break_second = False
        self._jobs: deque[tuple[Request[Any], Callable[[], Any]]] = deque()

    @property
    def card(self) -> ModelCard:
        return ModelCard(
            name="fake", global_view=GLOBAL_VIEW, local_view=LOCAL_VIEW, crop_size=SIDE, threshold=0.5
        )

    @property
    def slots(self) -> int:
        return 1

    @property
    def usage(self) -> Usage:
        return Usage(1, 0, 0, 0, 0, 0)

    def prepare(
        self,
        global_image: Image.Image,
        question: str,
        original: Size,
        options: AnswerOptions | None = None,
        *,
        client: str = "",
        wanted: TokenOptions = ONLY_TOKENS,
        jpeg: bytes | None = None,
    ) -> Question:
        options = AnswerOptions() if options is None else options
        check_question(question, self.max_question_characters)
        if question == "endless":
            raise QuestionTooLongError("the question does not fit the context")
        check_sent(global_image, GLOBAL_VIEW, original, "image")
        policy = Policy(0.5).with_options(options)
        return FakeQuestion(question, original, options, policy, 20, client, wanted)

    def prepare_local(
        self, pending: Pending, local_image: Image.Image, *, jpeg: bytes | None = None
    ) -> LocalImage:
        check_sent(local_image, LOCAL_VIEW, pending.region.size, "image")
        return FakeLocal(pending.region.size)

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        return ["?" for _ in token_ids]

    def start_first_look(
        self,
        question: Question,
        *,
        on_region: Callable[[FirstLook], None],
        on_tokens: Callable[[Look], None] | None = None,
    ) -> Request[FirstLook]:
        self.clients.append(question.client)
        return self._start(lambda: self._first_look(question, on_region))

    def start_second_look(
        self,
        pending: Pending,
        local_image: LocalImage,
        *,
        after: Request[FirstLook] | None,
        sent_bytes: int,
        on_tokens: Callable[[Look], None] | None = None,
    ) -> Request[FinalAnswer]:
        assert isinstance(local_image, FakeLocal)
        assert local_image.shown == pending.region.size
        self.local_bytes.append(sent_bytes)
        return self._start(lambda: self._second_look(pending, after))

    def first_look(
        self, image: Image.Image, question: str, original: Size, options: AnswerOptions
    ) -> FirstLook:
        request = self.start_first_look(self.prepare(image, question, original, options), on_region=print)
        self.round()
        return request.future.result(timeout=0)

    def second_look(self, pending: Pending, image: Image.Image) -> FinalAnswer:
        picture = self.prepare_local(pending, image)
        request = self.start_second_look(pending, picture, after=None, sent_bytes=0)
        self.round()
        return request.future.result(timeout=0)

    def round(self) -> bool:
        if not self._jobs:
            return False
        request, job = self._jobs.popleft()
        self.threads.add(threading.current_thread().name)
        self.entered.release()
        assert self.gate.wait(timeout=60)
        try:
            request.future.set_result(job())
        except Exception as error:  # noqa: BLE001 -- as the real one does
            request.future.set_exception(error)
        return bool(self._jobs)

    def cancel(self, request: Request[Any]) -> None:
        self.cancelled += not request.future.done()
        self._jobs = deque((known, job) for known, job in self._jobs if known is not request)

    def _start(self, job: Callable[[], Any]) -> Request[Any]:
        request: Request[Any] = Request(_flow(), False, Stages())
        self._jobs.append((request, job))
        return request

    def _first_look(self, asked: Question, on_region: Callable[[FirstLook], None]) -> FirstLook:
        question, options = asked.text, asked.options
        self.first_looks += 1
        if question == "broken":
            raise RuntimeError("secret detail")
        if question == "crowded":
            raise OutOfMemoryError("there is no memory for this question")
        sure = question == "sure" or options.second_look == "never"
        first = look(f"first to {question}", 0.1 if sure else 0.9)
        seconds = LookSeconds(encode=0.25)
        maps = MAPS if options.relevance or not sure else None
        relevance = MAPS.relevance() if options.relevance else None
        if sure:
            return FirstLook(first, "sure", None, None, maps, seconds, relevance)
        pending = Pending(asked, first, REGION, source="attention")
        found = FirstLook(first, "unsure", REGION, pending, maps, seconds, relevance, "attention")
        if question != "long":
            return found
        on_region(found)
        assert self.rest.wait(timeout=60)
        return FirstLook(look("first to long, and more", 0.8), "unsure", REGION, pending, maps, seconds)

    def _second_look(self, pending: Pending, after: Request[FirstLook] | None) -> FinalAnswer:
        self.second_looks += 1
        if self.break_second:
            raise RuntimeError("secret detail")
        second = look(f"second to {pending.question.text}", 0.2)
        first = pending.first if after is None else after.future.result(timeout=0).look
        seconds = LookSeconds(decode=0.5)
        return FinalAnswer(first, second, "took_second", pending.region, seconds, pending.source)


def jpeg(width: int = SIDE, height: int = SIDE) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(buffer, "JPEG")
    return buffer.getvalue()
