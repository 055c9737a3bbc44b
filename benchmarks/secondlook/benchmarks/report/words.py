"""Figures as a report writes them."""

from __future__ import annotations

import math
import re
from typing import Final

from secondlook.benchmarks.analysis.bootstrap import Estimate

__all__ = ["NONE", "kilobytes", "number", "parted", "percent", "points"]

_FIGURE: Final = re.compile(r"([^()]+) \(([^()]+ to [^()]+)\)")

NONE = "-"
"""Where there is no figure."""


def percent(estimate: Estimate, digits: int = 1) -> str:
    """A share and its interval: "57.6 % (55.4 to 59.8)"."""
    return _written(estimate, 100, digits, " %")


def points(estimate: Estimate, digits: int = 1) -> str:
    """A difference of shares in percentage points, with its sign."""
    return _written(estimate, 100, digits, "", sign="+")


def number(estimate: Estimate, digits: int = 3) -> str:
    """Any figure and its interval."""
    return _written(estimate, 1, digits, "")


def kilobytes(estimate: Estimate) -> str:
    """Bytes, as kB of 1000."""
    return _written(estimate, 1e-3, 1, " kB")


def parted(text: str) -> tuple[str, str] | None:
    """A figure and its interval, each in a text of its own; None of what is none with an interval."""
    found = _FIGURE.fullmatch(text)
    return None if found is None else (found[1], found[2])


def _written(estimate: Estimate, factor: float, digits: int, unit: str, sign: str = "") -> str:
    value, low, high = (factor * each for each in (estimate.value, estimate.low, estimate.high))
    if math.isnan(value):
        return NONE
    told = "∞" if math.isinf(value) else f"{value:{sign}.{digits}f}{unit}"
    return told if math.isnan(low) else f"{told} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"
