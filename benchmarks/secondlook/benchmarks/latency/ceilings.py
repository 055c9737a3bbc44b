"""What the device reaches, and the time that work would take at those rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from secondlook.benchmarks.latency.flow import Stopwatch
from secondlook.benchmarks.latency.work import Work
from secondlook.engine.models.packed_linear import PACKED, PackedLinear, pack_linear_layers

__all__ = ["Rates", "measure_rates"]

_SIDES: Final = {"cpu": 2048, "cuda": 8192}
_VALUES: Final = 2**26
"""float32 values of the large tensors, 256 MiB: more than caches hold."""
_ROUNDS: Final = 15
_CUDA_CALLS: Final = 10
"""In a row, so that the device need not wait for Python."""


@dataclass(frozen=True)
class Rates:
    """What the device reaches on one large operation, at its best.

    Attributes:
        bytes_per_second: of the faster of a large sum, which reads, and a large copy, which reads and writes.
        flops_per_second: of a large square matrix product in the model's dtype, with packed weights where
            that is faster.
    """

    bytes_per_second: float
    flops_per_second: float

    def best(self, other: Rates) -> Rates:
        """The higher of each: a machine that was busy once is not as slow as that."""
        return Rates(
            max(self.bytes_per_second, other.bytes_per_second),
            max(self.flops_per_second, other.flops_per_second),
        )

    def ceiling(self, work: Work, weight_bytes: int) -> float:
        """Seconds of the work at these rates: parallel passes at the matrix rate, and decoding at that rate
        too, but with all weights read for each token.

        All else is left out, so that nothing is faster but where it beats the rates: weights in a cache, say.
        """
        reading = work.steps * weight_bytes / self.bytes_per_second
        return work.parallel / self.flops_per_second + max(reading, work.sequential / self.flops_per_second)


def measure_rates(dtype: torch.dtype, device: torch.device) -> Rates:
    """Measure both; a few seconds."""
    side = _SIDES[device.type]
    left = torch.ones(side, side, dtype=dtype, device=device)
    product = torch.empty_like(left)
    matrix = _fastest(lambda: torch.mm(left, left, out=product), device)
    layers = nn.Sequential(
        nn.Linear(side, side, bias=False, device=device, dtype=dtype).requires_grad_(False)
    )
    pack_linear_layers(layers, PACKED)
    if isinstance(layers[0], PackedLinear):
        matrix = min(matrix, _fastest(lambda: layers(left), device))
    source = torch.ones(_VALUES, device=device)
    target = torch.empty_like(source)
    reading = source.nbytes / _fastest(source.sum, device)
    copying = 2 * source.nbytes / _fastest(lambda: target.copy_(source), device)
    return Rates(max(reading, copying), 2 * side**3 / matrix)


def _fastest(operation: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, at best; the first round is a warm-up, too."""
    calls = _CUDA_CALLS if device.type == "cuda" else 1
    seconds = []
    for _ in range(_ROUNDS):
        watch = Stopwatch(device)
        for _ in range(calls):
            operation()
        seconds.append(watch.read() / calls)
    return min(seconds)
