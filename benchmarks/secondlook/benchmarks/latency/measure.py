"""Runs of all flows in turns, each on requests that nobody has seen before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from secondlook.benchmarks.latency.flow import Flow, Outcome, Request, synthetic_request
from secondlook.benchmarks.latency.memory import ExtraMemory

__all__ = ["Sample", "answer_in_turns", "fresh_requests"]


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


@dataclass(frozen=True)
class MemoryRow:
    """The most memory that a flow took while it answered one request, beside what was held before."""

    request: str
    flow: str
    extra_bytes: int


def fresh_requests(side: int, new_tokens: int, rounds: int, seed: int) -> Iterator[Request]:
    """For every round an unsure and a sure request; no two have the same picture."""
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        for look_twice in (True, False):
            yield synthetic_request(generator, side, look_twice=look_twice, new_tokens=new_tokens)


def answer_in_turns(flows: Sequence[Flow], requests: Iterable[Request]) -> Iterator[Sample]:
    """Answer every request by every flow, another flow first each time, and yield what came of each."""
    for index, request in enumerate(requests):
        turn = index % len(flows)
        for flow in (*flows[turn:], *flows[:turn]):
            yield Sample(flow.name, index, request.look_twice, flow.answer(request))


def memory_in_turns(
    flows: Sequence[Flow], requests: Iterable[Request], memory: ExtraMemory
) -> Iterator[MemoryRow]:
    """Answer every request by every flow, and yield what memory each took. These requests tell no times."""
    for request in requests:
        for flow in flows:
            memory.reset()
            flow.answer(request)
            yield MemoryRow("unsure" if request.look_twice else "sure", flow.name, memory.read())
