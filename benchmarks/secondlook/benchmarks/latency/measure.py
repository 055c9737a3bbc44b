"""Runs of all flows in turns, each on requests that nobody has seen before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from secondlook.benchmarks.latency.flow import Flow, Outcome, Request, synthetic_request
from secondlook.benchmarks.latency.memory import PeakMemory

__all__ = ["Sample", "answer_in_turns", "fresh_requests"]


@dataclass(frozen=True)
class Sample:
    """One flow's outcome on one request.

    Attributes:
        index: of the request; all flows answer the same ones.
        peak_bytes: of memory, while it was answered.
    """

    flow: str
    index: int
    unsure: bool
    outcome: Outcome
    peak_bytes: int


def fresh_requests(side: int, new_tokens: int, rounds: int, seed: int) -> Iterator[Request]:
    """For every round an unsure and a sure request; no two have the same picture."""
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        for look_twice in (True, False):
            yield synthetic_request(generator, side, look_twice=look_twice, new_tokens=new_tokens)


def answer_in_turns(
    flows: Sequence[Flow], requests: Iterable[Request], memory: PeakMemory
) -> Iterator[Sample]:
    """Answer every request by every flow, another flow first each time, and yield what came of each."""
    for index, request in enumerate(requests):
        turn = index % len(flows)
        for flow in (*flows[turn:], *flows[:turn]):
            memory.reset()
            outcome = flow.answer(request)
            yield Sample(flow.name, index, request.look_twice, outcome, memory.read())
