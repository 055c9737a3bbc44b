"""What must be set before torch is loaded: how many threads compute on a CPU, how long they spin before they
sleep, how many kernels are kept, and that freed memory is.

OpenMP's threads wait for each other by spinning. That is fast while each has a core of its own; where other
processes want the cores, too, each spins its time slice away, and an answer takes many times as long. A short
spin followed by sleep costs little on an idle machine (docs/performance.md says how to see it).

oneDNN makes a kernel for every shape of a product that it meets: one for every number of rows that looks
happen to have together. It keeps the latest 1024, and PyTorch's layer above it as many again. Each takes some
hundred kB, so that a server grows by a gigabyte; to make one again takes about a millisecond.

GNU's malloc gives a large tensor's memory back to the system when that is freed, and the next one's pages are
cleared and mapped anew, a few megabytes at each of a model's operations: up to a fifth of a vision encoder's
time. It is told to keep what was freed.

The libraries read these variables once, when torch is loaded, so that only what is set before matters.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Final

__all__ = ["configure_threads", "usable_cores"]

_SPIN: Final = {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "1"}
"""GNU's OpenMP counts turns of its loop, LLVM's and Intel's milliseconds."""

_KERNELS: Final = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "128"}
"""oneDNN's cache, and that of ideep, by which PyTorch calls it."""

_KEPT: Final = {-3: 32 * 2**20, -1: 2**30}
"""By glibc's malloc.h: from how many bytes memory is mapped by itself (M_MMAP_THRESHOLD, whose highest value
this is), and how many must be free at a heap's end before it shrinks (M_TRIM_THRESHOLD)."""
_MALLOC: Final = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")

_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")


def configure_threads(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Have OpenMP's threads spin for a short time only, and be no more than the cores that may be used;
    oneDNN keep few kernels; and GNU's malloc keep freed memory.

    The commands do this; who imports the engine calls it before anything loads torch. What the environment
    says already (OMP_NUM_THREADS, OMP_WAIT_POLICY, GOMP_SPINCOUNT, KMP_BLOCKTIME,
    ONEDNN_PRIMITIVE_CACHE_CAPACITY, LRU_CACHE_CAPACITY) stays; where it says anything of malloc
    (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_, GLIBC_TUNABLES, LD_PRELOAD), so does that.

    Returns:
        whether it was in time: False, and nothing is set, once torch is loaded.
    """
    if "torch" in sys.modules:
        return False
    if "OMP_WAIT_POLICY" not in environment:
        for name, value in _SPIN.items():
            environment.setdefault(name, value)
    for name, value in _KERNELS.items():
        environment.setdefault(name, value)
    environment.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    change = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if change is not None and not any(name in environment for name in _MALLOC):
        for what, size in _KEPT.items():
            change(what, size)
    return True


def usable_cores(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Cores that this process may run on: of its affinity, and whole ones of its control groups' quotas.

    Args:
        cgroups: where control groups (version 2, or 1) are mounted.
        own: the file that names those of this process.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, int(min([cores, *_quotas(cgroups, own)])))


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Cores' worth of time that each control group around this process allows, where it limits that."""
    for line in _read(own).splitlines():
        _, controllers, group = line.split(":", 2)
        mounted = cgroups if not controllers else cgroups / "cpu"
        if controllers and "cpu" not in controllers.split(","):
            continue
        inner = mounted / group.lstrip("/")
        for folder in (inner, *inner.parents):
            if folder == cgroups.parent:
                break
            words = _read(folder / "cpu.max").split() or [
                _read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
            ]
            if len(words) == 2 and all(word.isdigit() and int(word) for word in words):
                yield int(words[0]) / int(words[1])


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
