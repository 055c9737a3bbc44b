"""Times of small operations, fair to both sides: interleaved rounds, warm, the median of many.

On a GPU the calls are captured in a CUDA graph and replayed, as the serving path does it: what is measured is
the device's time, without Python's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch

from secondlook.engine.decode.graphs import capture

_ROUNDS: Final = 15
_ROUND_SECONDS: Final = 0.02
_GRAPH_CALLS: Final = 20

Operation = Callable[[], Any]


def milliseconds(seconds: Sequence[float], *percentiles: int) -> dict[str, float]:
    """Percentiles of times as a report has them, such as "p50_ms"; each in milliseconds."""
    found = np.percentile(seconds, percentiles)
    return {f"p{each}_ms": 1e3 * float(value) for each, value in zip(percentiles, found, strict=True)}


def side_by_side(
    operations: Sequence[Operation],
    device: torch.device,
    pick: Callable[[Sequence[float]], float] = statistics.median,
) -> list[float]:
    """Seconds of one call of each operation, measured in turns: the median of the rounds, unless told."""
    runners = [_graphed(operation) if device.type == "cuda" else operation for operation in operations]
    calls = _GRAPH_CALLS if device.type == "cuda" else 1
    repeats = [max(1, round(_ROUND_SECONDS / max(1e-7, _timed(runner, 3, device)))) for runner in runners]
    seconds: list[list[float]] = [[] for _ in runners]
    for _ in range(_ROUNDS):
        for index, runner in enumerate(runners):
            seconds[index].append(_timed(runner, repeats[index], device) / calls)
    return [pick(each) for each in seconds]


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes together."""
    size = 2**28 if device.type == "cuda" else 2**27
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    (seconds,) = side_by_side([lambda: target.copy_(source)], device)
    return 2 * size / seconds


def _timed(runner: Operation, repeats: int, device: torch.device) -> float:
    """Seconds of one of `repeats` calls in a row."""
    if device.type == "cuda":
        cuda: Any = torch.cuda  # its events and streams are untyped
        start, stop = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        start.record()
        for _ in range(repeats):
            runner()
        stop.record()
        torch.cuda.synchronize()
        milliseconds: float = start.elapsed_time(stop)
        return milliseconds / 1000 / repeats
    began = time.perf_counter()
    for _ in range(repeats):
        runner()
    return (time.perf_counter() - began) / repeats


def _graphed(operation: Operation) -> Operation:
    """A replay of `_GRAPH_CALLS` calls."""

    def calls() -> None:
        for _ in range(_GRAPH_CALLS):
            operation()

    return capture(calls)
