"""The memory that a piece of work takes beside what is held already: the device's on a GPU, else the
process's."""

from __future__ import annotations

import ctypes
import re
import resource
import sys
from pathlib import Path

import torch

__all__ = ["ExtraMemory"]

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's


class ExtraMemory:
    """Bytes at their highest since `reset`, less those held then: weights and whatever else stays.

    Attributes:
        measure: what is counted. Where the system cannot forget a process's peak (anything but Linux), only
            what exceeds the whole run's peak so far counts.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._resettable = device.type != "cuda" and self._forget()
        self._held = 0
        if device.type == "cuda":
            self.measure = (
                "torch.cuda.max_memory_allocated during each request, less what was allocated before it"
            )
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
