"""What every training stage does beside learning: the rate's course, progress, states that survive."""

from __future__ import annotations

import argparse
import logging
import math
import time
from pathlib import Path
from typing import Any, Final

import torch

__all__ = [
    "DEVICE",
    "Meter",
    "adamw",
    "autocast",
    "device",
    "learning_rate",
    "load_state",
    "restored",
    "save_state",
]

logger = logging.getLogger(__name__)

DEVICE: Final = "cuda" if torch.cuda.is_available() else "cpu"
"""Where training takes place unless it is told otherwise."""


def device(name: str) -> torch.device:
    """For argparse: a device by its name."""
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"there is no device {name!r}; use cpu, cuda or cuda:N") from error


def learning_rate(step: int, steps: int, peak: float, warm_up: int) -> float:
    """Linear warm-up, then a cosine down to a fiftieth of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def adamw(parameters: Any, peak: float) -> torch.optim.AdamW:
    """The optimiser of all stages, over parameters or groups of them."""
    return torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.05, fused=True)


def autocast(device: torch.device) -> torch.autocast:
    """Matrix products in bfloat16."""
    return torch.autocast(device.type, torch.bfloat16)


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """What `save_state` wrote."""
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
    return state


def restored(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> int:
    """The step to go on from: an interrupted run's, with its optimiser, or 0 where another stage begins."""
    if "optimiser" not in state:
        return 0
    optimiser.load_state_dict(state["optimiser"])
    step: int = state["step"]
    return step


def save_state(path: Path, optimiser: torch.optim.Optimizer, step: int, **parts: torch.nn.Module) -> None:
    """Write the parts' weights, the optimiser and the number of steps done; a killed run leaves no half
    file."""
    state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
    partial = path.with_suffix(".tmp")
    torch.save({**state, "optimiser": optimiser.state_dict(), "step": step}, partial)
    partial.replace(path)


class Meter:
    """Logs the means of what steps report, and examples a second, every `every` steps."""

    def __init__(self, start: int, steps: int, batch: int, every: int) -> None:
        self._start, self._steps, self._batch, self._every = start, steps, batch, every
        self._sums: dict[str, float] = {}
        self._began = time.perf_counter()

    def add(self, step: int, **values: float | torch.Tensor) -> None:
        """Take in what step `step` (0 is the first) measured."""
        for name, value in values.items():
            number = float(value.detach()) if isinstance(value, torch.Tensor) else value
            self._sums[name] = self._sums.get(name, 0.0) + number
        done = step + 1
        if done % self._every == 0:
            means = "  ".join(f"{name} {total / self._every:.3f}" for name, total in self._sums.items())
            rate = (done - self._start) * self._batch / (time.perf_counter() - self._began)
            logger.info("step %d/%d  %s  %.1f/s", done, self._steps, means.replace("_", " "), rate)
            self._sums = {}
