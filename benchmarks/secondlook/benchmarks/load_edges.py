"""Edges that ask one question at a time: each its next when the last is answered, or after a pause."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import numpy as np
from PIL import Image

from secondlook.benchmarks.options import NEVER, LoadRun
from secondlook.edge import AsyncEdgeClient
from secondlook.edge.errors import SecondLookError
from secondlook.edge.wire import AnswerOptions

_ORIGINAL = (800, 600)
_PATCHES = (24, 32)
_QUESTION = "What number is on the red sign?"


@dataclass(frozen=True)
class Phase:
    """A while of load by so many edges; `seed` is any numbers: every question has a new picture."""

    url: str
    run: LoadRun
    edges: int
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Asked:
    """A question that ended while it counted.

    Attributes:
        seconds: from before its global image was prepared to the final answer, repetitions included.
        unsure: whether it was to be looked at twice.
        looked_twice: whether it was.
        bytes_up: of both pictures and all that goes with them.
        failure: why there is no answer, or only the first one.
    """

    seconds: float
    unsure: bool
    looked_twice: bool = False
    bytes_up: int = 0
    failure: str | None = None


@dataclass
class PhaseResult:
    """What came of a phase; `statuses` counts every reply that arrived while it counted."""

    asked: list[Asked] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


class _Window:
    def __init__(self, run: LoadRun) -> None:
        self._opens = time.perf_counter() + run.warmup_seconds
        self.closes = self._opens + run.seconds

    @property
    def open(self) -> bool:
        return self._opens <= time.perf_counter() < self.closes


class _Network(httpx.AsyncBaseTransport):
    """The loopback interface with a delay each way; counts the replies."""

    def __init__(self, delay_seconds: float, window: _Window, statuses: Counter[int]) -> None:
        self._inner = httpx.AsyncHTTPTransport(verify=False)  # no TLS on the loopback interface
        self._delay_seconds, self._window, self._statuses = delay_seconds, window, statuses

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(self._delay_seconds)
        response = await self._inner.handle_async_request(request)
        await asyncio.sleep(self._delay_seconds)
        self._statuses[response.status_code] += self._window.open
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


def run_phase(phase: Phase) -> PhaseResult:
    """Let the edges ask until the phase is over, and for what they began by then."""
    return asyncio.run(_run(phase))


async def _run(phase: Phase) -> PhaseResult:
    result, window = PhaseResult(), _Window(phase.run)
    await asyncio.gather(*(_edge(phase, number, window, result) for number in range(phase.edges)))
    return result


async def _edge(phase: Phase, number: int, window: _Window, result: PhaseResult) -> None:
    generator = np.random.default_rng((*phase.seed, number))
    unsure = unsure_pattern(phase.run.retransmission_rate, generator.random())
    network = _Network(phase.run.delay_ms / 1000, window, result.statuses)
    async with AsyncEdgeClient(phase.url, transport=network) as client:
        due = time.perf_counter() + _gap(generator, phase.run.rate)
        while max(due, time.perf_counter()) < window.closes:
            await asyncio.sleep(due - time.perf_counter())
            due = time.perf_counter() + _gap(generator, phase.run.rate)
            asked = await _ask(client, _picture(generator), phase.run.new_tokens, next(unsure))
            if window.open:
                result.asked.append(asked)


def _gap(generator: np.random.Generator, rate: float) -> float:
    """Seconds from one question to the next, at least."""
    return float(generator.exponential(1 / rate)) if rate else 0.0


async def _ask(client: AsyncEdgeClient, picture: Image.Image, new_tokens: int, unsure: bool) -> Asked:
    options = AnswerOptions(threshold=0.0 if unsure else NEVER, max_new_tokens=new_tokens)
    began = time.perf_counter()
    try:
        answer = await client.ask(picture, _QUESTION, options)
    except SecondLookError as error:
        return Asked(time.perf_counter() - began, unsure, failure=str(error))
    seconds = time.perf_counter() - began
    return Asked(seconds, unsure, answer.looked_twice, sum(answer.bytes_up), answer.second_look_failed)


def unsure_pattern(rate: float, phase: float) -> Iterator[bool]:
    """Whether each question is unsure, spread as evenly as can be; `phase`, from 0 to 1, shifts it."""
    total = phase
    while True:
        total += rate
        yield total >= 1.0
        total -= total >= 1.0


def _picture(generator: np.random.Generator) -> Image.Image:
    """One that nobody has seen before."""
    patches = generator.integers(0, 256, (*_PATCHES, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize(_ORIGINAL, Image.Resampling.NEAREST)
