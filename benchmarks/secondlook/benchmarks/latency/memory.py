"""Peak memory of a piece of work: the device's on a GPU, the process's on a CPU."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import torch

__all__ = ["PeakMemory"]

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Bytes at their highest since `reset`.

    Attributes:
        measure: what is counted. Where the system cannot forget a process's peak (anything but Linux), the
            numbers are those of the whole run, weights and loading included.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._resettable = device.type != "cuda" and self._forget()
        if device.type == "cuda":
            self.measure = "torch.cuda.max_memory_allocated of each request, weights included"
        elif self._resettable:
            self.measure = "peak resident size of the process during each request (VmHWM), weights included"
        else:
            self.measure = "peak resident size of the process so far (getrusage)"

    def reset(self) -> None:
        """Forget the peak, where that can be done."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._resettable:
            self._forget()

    def read(self) -> int:
        """The peak in bytes."""
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
