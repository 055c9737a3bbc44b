"""What the device reaches, the time that work would take at those rates, and the memory that work takes."""

from __future__ import annotations

import ctypes
import re
import resource
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import nn

from secondlook.benchmarks.latency.flow import Stopwatch
from secondlook.benchmarks.latency.work import Work
from secondlook.benchmarks.timing import Operation, side_by_side
from secondlook.engine.models.packed_linear import PackedLinear
from secondlook.engine.models.packing import PACKED, pack_linear_layers

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's

_SIDES: Final = {"cpu": 2048, "cuda": 8192}
_VALUES: Final = 2**26
"""float32 values of the large tensors, 256 MiB: more than caches hold."""


@dataclass(frozen=True)
class Rates:
    """What the device reaches on one large operation.

    Attributes:
        bytes_per_second: of a large sum, which reads as a decode step reads weights. (A copy also writes, for
            which some processors have ways of their own, and moves more bytes in a second.)
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


class RateMeter:
    """Measures both rates, each once in a turn: beside what is measured in the same turns, for a machine that
    others use too may read half as fast a minute later."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._device = device
        self._side = side = _SIDES[device.type]
        left = torch.ones(side, side, dtype=dtype, device=device)
        product = torch.empty_like(left)
        layers = nn.Sequential(
            nn.Linear(side, side, bias=False, device=device, dtype=dtype).requires_grad_(False)
        )
        pack_linear_layers(layers, PACKED)
        self._source = torch.ones(_VALUES, device=device)
        self.operations: list[Operation] = [self._source.sum, lambda: torch.mm(left, left, out=product)]
        if isinstance(layers[0], PackedLinear):
            self.operations.append(lambda: layers(left))
        self._seconds: list[list[float]] = [[] for _ in self.operations]

    def turn(self) -> None:
        """Measure each once."""
        for operation, seconds in zip(self.operations, self._seconds, strict=True):
            watch = Stopwatch(self._device)
            operation()
            seconds.append(watch.read())

    def median(self) -> Rates:
        """Of all turns."""
        return self.of([statistics.median(seconds) for seconds in self._seconds])

    def of(self, seconds: Sequence[float]) -> Rates:
        """From the seconds of each operation."""
        reading, *products = seconds
        return Rates(self._source.nbytes / reading, 2 * self._side**3 / min(products))


def measure_rates(dtype: torch.dtype, device: torch.device) -> Rates:
    """Measure both at their best; a few seconds."""
    meter = RateMeter(dtype, device)
    return meter.of(side_by_side(meter.operations, device, min))


class ExtraMemory:
    """The memory of a piece of work beside what is held already: the device's on a GPU, else the process's;
    bytes at their highest since `reset`, less those held then: weights and whatever else stays.

    Attributes:
        measure: what is counted. Where the system cannot forget a process's peak (anything but Linux), only
            what exceeds the whole run's peak so far counts.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._resettable = device.type != "cuda" and self._forget()
        self._held = 0
        if device.type == "cuda":
            self.measure = "torch.cuda.max_memory_allocated in each request, less what was allocated before"
        elif self._resettable:
            self.measure = (
                "peak resident size of the process during each request (VmHWM), less what was resident "
                "before it, when the allocator had given back what was free"
            )
        else:
            self.measure = "rise of the process's peak resident size (getrusage) in each request"
        self.reset()

    def reset(self) -> None:
        """Forget the peak, where that can be done; what is held now does not count from here on.

        On Linux the process's free memory goes back to the system, which makes what follows a little slower.
        """
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._resettable:
            if _trim is not None:
                _trim(0)
            self._forget()
        self._held = self._peak()  # where it was forgotten, what is held

    def read(self) -> int:
        """The peak's bytes beyond those held at `reset`."""
        return self._peak() - self._held

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        if self._resettable:
            found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
            assert found is not None, "Linux tells a process's peak"
            return int(found[1]) * 1024
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def _forget(self) -> bool:
        """Whether Linux reset this process's VmHWM (proc(5), clear_refs)."""
        try:
            _RESET.write_text("5", encoding="ascii")
        except OSError:
            return False
        return True
