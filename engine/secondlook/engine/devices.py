"""Which device is meant, its name, which one is current, and how values get there without waiting."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secondlook.engine.errors import DeviceError

__all__ = ["chosen_device", "hardware_name", "on_device", "synchronise", "to_device"]


def chosen_device(device: str) -> torch.device:
    """The device of an option: "auto", "cpu", "cuda" or "cuda:N"; auto is a GPU if there is one.

    Raises:
        DeviceError: it is none of these, or not here.
    """
    cuda = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if cuda else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"there is no device {device!r}; use auto, cpu, cuda or cuda:N") from error
    if place.type not in ("cpu", "cuda"):
        raise DeviceError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    if place.type == "cuda":
        count = torch.cuda.device_count() if cuda else 0
        if (place.index or 0) >= count:
            there = f"{count or 'no'} CUDA GPU{'s' if count > 1 else ''}"
            raise DeviceError(f"device {device!r} is not available: torch sees {there}; use cpu")
    return place


def hardware_name(device: torch.device) -> str:
    """What a GPU calls itself, or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a GPU the current one of this thread while the block runs; its streams and events are then
    those that are meant."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all work given to it, so that a clock read now is honest."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, without waiting for what the device still does.

    The tensor may be changed or freed at once: what is copied is a copy in pinned memory.
    """
    pinned = values.pin_memory() if device.type == "cuda" else values
    return pinned.to(device, non_blocking=True)
