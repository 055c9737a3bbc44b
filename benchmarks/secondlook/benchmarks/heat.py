"""Relative attention as a log keeps it: a text for each row, two hexadecimal digits for each cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["heat_map", "heat_rows"]


def heat_rows(relative: npt.NDArray[np.float64]) -> tuple[str, ...]:
    """Of a map [rows, columns] that is nowhere negative; ff is its largest value."""
    scaled = np.rint(relative / max(float(relative.max()), 1e-12) * 255).astype(np.uint8)
    return tuple(row.tobytes().hex() for row in scaled)


def heat_map(rows: Sequence[str]) -> npt.NDArray[np.float64]:
    """[rows, columns], from 0 to 1.

    Raises:
        ValueError: the rows are of different lengths, or not hexadecimal.
    """
    return np.array([list(bytes.fromhex(row)) for row in rows], np.float64) / 255
