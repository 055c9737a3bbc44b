"""Two things about devices: which one is current, and how values get there without waiting."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = ["on_device", "to_device"]


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a GPU the current one of this thread while the block runs; its streams and events are then
    those that are meant."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, without waiting for what the device still does.

    The tensor may be changed or freed at once: what is copied is a copy in pinned memory.
    """
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)
