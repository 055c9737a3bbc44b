"""The least time a device could need: work over measured rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from secondlook.benchmarks.latency.work import Work
from secondlook.benchmarks.timing import copy_bandwidth, side_by_side

__all__ = ["Rates", "measure_rates"]

_SIDES: Final = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Rates:
    """What the device reaches on one large operation.

    Attributes:
        bytes_per_second: read and written together by a large copy.
        flops_per_second: of a large square matrix product in the model's dtype.
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
        """Seconds below which no implementation of this work gets: parallel passes at the matrix rate, and
        decoding at that rate too, but with all weights read for each token."""
        reading = work.steps * weight_bytes / self.bytes_per_second
        return work.parallel / self.flops_per_second + max(reading, work.sequential / self.flops_per_second)


def measure_rates(dtype: torch.dtype, device: torch.device) -> Rates:
    """Measure both; a few seconds."""
    side = _SIDES[device.type]
    left = torch.ones(side, side, dtype=dtype, device=device)
    out = torch.empty_like(left)
    (seconds,) = side_by_side([lambda: torch.mm(left, left, out=out)], device)
    return Rates(copy_bandwidth(device), 2 * side**3 / seconds)
