"""A decode step as CUDA graphs, one for each of a few batch sizes: a replay costs the host one call.

Batches in between are filled up with rows of padding, which go to a slot of the cache and an answer that are
nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from secondlook.engine.devices import to_device

__all__ = ["BATCH_SIZES", "NO_ANSWER", "StepGraphs", "capture"]

BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
"""Rows of the graphs; more rows than the last are several replays."""

NO_ANSWER: Final = -1
"""The answer of a row of padding."""

Capture: TypeAlias = Callable[[Callable[[], None], Any], Callable[[], None]]
"""Makes a replay of work, in a pool of memory."""

Step: TypeAlias = Callable[[Tensor, Tensor], None]
"""Computes one token for rows in slots [B], of answers [B], both int64, without waiting for the device."""


def capture(work: Callable[[], None], pool: Any = None) -> Callable[[], None]:
    """Capture work in a CUDA graph, after doing it a few times; returns the replay.

    Args:
        pool: memory shared with other graphs that never run at the same time (`graph_pool_handle`).
    """
    cuda: Any = torch.cuda  # its streams and graphs are untyped
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        for _ in range(3):
            work()
    cuda.current_stream().wait_stream(side)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph, pool=pool):
        work()
    replay: Callable[[], None] = graph.replay
    return replay


@dataclass
class _Captured:
    """One graph; `slots` and `answers` [size] are what it reads, `rows` what is in them."""

    slots: Tensor
    answers: Tensor
    replay: Callable[[], None]
    rows: tuple[int, ...] = ()


class StepGraphs:
    """Steps of up to `slots` rows, captured when this is made.

    Args:
        step: what is captured. It must leave everything as it is for rows of padding.
        slots: of the cache, those of padding not counted; padding is slot `slots`.
        capture: makes the replays.
    """

    def __init__(
        self,
        step: Step,
        slots: int,
        device: torch.device,
        capture: Capture = capture,
    ) -> None:
        self._padding_slot, self._device = slots, device
        needed = [size for size in BATCH_SIZES if size < slots]
        # The largest first: the others then find room in the memory that it had.
        sizes = BATCH_SIZES[: len(needed) + 1][::-1]
        pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._graphs = {size: self._captured(step, size, capture, pool) for size in sizes}

    def run(self, slots: Sequence[int]) -> None:
        """One step of these slots."""
        most = max(self._graphs)
        for first in range(0, len(slots), most):
            self._replay(tuple(slots[first : first + most]))

    def _replay(self, rows: tuple[int, ...]) -> None:
        size = min(size for size in self._graphs if size >= len(rows))
        graph = self._graphs[size]
        if rows != graph.rows:
            padding, graph.rows = size - len(rows), ()
            slots, answers = [*rows, *[self._padding_slot] * padding], [*rows, *[NO_ANSWER] * padding]
            graph.slots.copy_(to_device(torch.tensor(slots), self._device))
            graph.answers.copy_(to_device(torch.tensor(answers), self._device))
            graph.rows = rows
        graph.replay()

    def _captured(self, step: Step, size: int, capture: Capture, pool: Any) -> _Captured:
        slots = torch.full((size,), self._padding_slot, dtype=torch.int64, device=self._device)
        answers = torch.full((size,), NO_ANSWER, dtype=torch.int64, device=self._device)
        return _Captured(slots, answers, capture(lambda: step(slots, answers), pool))
