"""What every way of answering has in common: one request in, one outcome with its times out; all of them in
turns, each on requests that nobody has seen before."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Final, Literal, Protocol, get_args

import numpy as np
import torch
from PIL import Image

from secondlook.edge.geometry import Region, Size, sent_size
from secondlook.edge.wire import View

Metric = Literal["first_token", "per_token", "first_answer", "region", "final_answer"]
"""Seconds from the request to the first token, to the first answer, to the region, to the final answer;
`per_token` is the mean of the tokens after the first, in the first answer. Where the region is known before
the first answer is complete, that is later."""

METRICS: Final[tuple[Metric, ...]] = get_args(Metric)

ORIGINAL: Final = Size(1600, 1200)
"""Of every request's picture, in pixels."""

_QUESTIONS: Final = (
    "What number is on the {} sign?",
    "Which {} thing is next to the door?",
    "How many {} signs are in the picture?",
)
_WORDS: Final = ("red", "green", "blue", "white", "black", "round", "small", "large")


@dataclass(frozen=True)
class Request:
    """One question about one picture.

    Attributes:
        global_image: the original as an edge would send it for `view`, but for JPEG.
        view: the model's, of global and local image alike.
        look_twice: whether this is an unsure request: every first answer then counts as unsure, whatever its
            uncertainty, and otherwise none does.
        new_tokens: of each answer.
    """

    original: Image.Image
    global_image: Image.Image
    view: View
    question: str
    look_twice: bool
    new_tokens: int

    @property
    def size(self) -> Size:
        """The original's, in pixels."""
        return Size(*self.original.size)

    def local_image(self, region: Region) -> Image.Image:
        """What an edge would cut out."""
        return _sent(self.original.crop(region.as_tuple()), self.view)


def _sent(image: Image.Image, view: View) -> Image.Image:
    size = sent_size(view, Size(*image.size))
    return image.resize((size.width, size.height))


@dataclass(frozen=True)
class Outcome:
    """What a request came to. A metric that a flow cannot tell is left out of `seconds`."""

    first: tuple[int, ...]
    region: Region | None
    second: tuple[int, ...] | None
    uncertainty: float
    seconds: dict[Metric, float]


class Flow(Protocol):
    """A way of answering. Cutting out the local image is the edge's work and not in its times."""

    name: str

    def answer(self, request: Request) -> Outcome: ...


class Stopwatch:
    """Seconds of work, the device's included; it can be paused."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0.0
        self._synchronise()
        self._started = time.perf_counter()

    def read(self) -> float:
        """Wait for the device and tell the seconds so far."""
        self._synchronise()
        return self.at(time.perf_counter())

    def at(self, moment: float) -> float:
        """The seconds at a value of `time.perf_counter` since the last pause."""
        return self._before + moment - self._started

    def pause(self) -> float:
        """Stop, until `go_on`."""
        self._before = self.read()
        return self._before

    def go_on(self) -> None:
        """Continue after a pause."""
        self._started = time.perf_counter()

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def synthetic_request(
    generator: np.random.Generator, view: View, *, look_twice: bool, new_tokens: int
) -> Request:
    """A picture of coloured patches that nobody has seen before, of 1600x1200, and a question about it."""
    patches = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    original = Image.fromarray(patches).resize(astuple(ORIGINAL), Image.Resampling.BICUBIC)
    question = _QUESTIONS[generator.integers(len(_QUESTIONS))]
    question = question.format(_WORDS[generator.integers(len(_WORDS))])
    return Request(original, _sent(original, view), view, question, look_twice, new_tokens)


def fresh_requests(view: View, new_tokens: int, rounds: int, seed: int) -> Iterator[Request]:
    """For every round an unsure and a sure request; no two have the same picture."""
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        for look_twice in (True, False):
            yield synthetic_request(generator, view, look_twice=look_twice, new_tokens=new_tokens)


@dataclass(frozen=True)
class Sample:
    """One flow's outcome on one request.

    Attributes:
        index: of the request; all flows answer the same ones.
    """

    flow: str
    index: int
    unsure: bool
    outcome: Outcome


def answer_in_turns(flows: Sequence[Flow], requests: Iterable[Request]) -> Iterator[Sample]:
    """Answer every request by every flow, another flow first each time, and yield what came of each."""
    for index, request in enumerate(requests):
        turn = index % len(flows)
        for flow in (*flows[turn:], *flows[:turn]):
            yield Sample(flow.name, index, request.look_twice, flow.answer(request))
