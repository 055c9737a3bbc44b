"""Where to look closer: from two attention rows to a box of the original, on the device they are on.

Zhang et al., arXiv 2502.17422 (ViCrop), section 4: relative attention, and a search over windows of several
sizes for the one that stands out most sharply from its neighbours. Cells are rounded once to integers, and
all that follows is exact, so that compiled operators and the reference agree on every box, ties included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from secondlook.kernels.operators import register

__all__ = [
    "MAX_CELLS",
    "MAX_PIXELS",
    "MAX_RATIOS",
    "find_region",
    "find_region_reference",
    "relative_attention",
]

# The same limits are in csrc/find_region.h.
MAX_CELLS: Final = 65_536
"""Most cells of a map."""
MAX_RATIOS: Final = 32
"""Most window sizes that are tried."""
MAX_PIXELS: Final = 2**31 - 1
"""Largest width, height, crop_size and min_cells."""

NO_REGION: Final = (-1, -1, -1, -1)
_PAPER_RATIOS: Final = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)

Box = tuple[int, int, int, int]


def find_region(
    question: Tensor,  # [B, rows * columns]
    generic: Tensor,  # [B, rows * columns]
    rows: int,
    columns: int,
    sizes: Tensor,  # [B, 2]
    crop_size: int,
    ratios: Sequence[float] = _PAPER_RATIOS,
    min_cells: int = 1,
) -> Tensor:  # [B, 4]
    """The window of each row's relative attention that stands out most, as a box of its original.

    Args:
        question, generic: attention to the cells of a grid, row by row: float32 or float64, of one dtype, the
            last dimension contiguous. The grid covers the whole original linearly (a squashed image).
        rows, columns: of the grid, at most `MAX_CELLS` cells.
        sizes: width and height of each original in pixels, int64, on the device of `question`.
        crop_size: side of the smallest window in original pixels.
        ratios: window sides in multiples of crop_size, ascending, each at least 1. Where the first covers the
            whole grid, the whole image is the box.
        min_cells: windows are at least so many cells wide and high; on large originals the crop size grows
            for it.

    Returns:
        left, top, right, bottom in original pixels, int64; (-1, -1, -1, -1) where a row holds NaN, infinity
        or a negative value, or a size is not in [1, MAX_PIXELS]. Compiled operators do not synchronise with
        the GPU; the reference does.

    Raises:
        TypeError: a dtype that is not supported.
        ValueError: shapes, devices, strides or settings that do not fit; the message names the argument.
    """
    boxes: Tensor = _operator(
        *(question.detach(), generic.detach(), rows, columns, sizes),
        *(crop_size, [float(ratio) for ratio in ratios], min_cells),
    )
    return boxes


def find_region_reference(
    question: Tensor,  # [B, rows * columns]
    generic: Tensor,  # [B, rows * columns]
    rows: int,
    columns: int,
    sizes: Tensor,  # [B, 2]
    crop_size: int,
    ratios: Sequence[float] = _PAPER_RATIOS,
    min_cells: int = 1,
) -> Tensor:  # [B, 4]
    """`find_region` in plain PyTorch, float64 and exact fractions: the specification, on any device.

    Windows are re-summed, each from the cells; the compiled operators use a summed-area table.
    """
    _check(question, generic, rows, columns, sizes, crop_size, ratios, min_cells)
    search = _Search(rows, columns, crop_size, tuple(float(ratio) for ratio in ratios), min_cells)
    maps = zip(question.double().cpu(), generic.double().cpu(), sizes.tolist(), strict=True)
    boxes = [_row(asked, plain, width, height, search) for asked, plain, (width, height) in maps]
    return torch.tensor(boxes, dtype=torch.int64, device=question.device).reshape(-1, 4)


def relative_attention(question: Tensor, generic: Tensor) -> Tensor:
    """A(question) / A(generic), cell by cell (ViCrop, section 4): what `find_region` searches.

    Where the generic attention is zero (it underflowed), its smallest positive value stands in (1 if it has
    none), so that the cell counts as one the generic question hardly looks at.

    Args:
        question, generic: one map each, of one shape; not negative and finite, of any floating dtype.

    Returns:
        float64, of the same shape; a ratio too large for it becomes the largest float64.
    """
    asked, plain = question.double(), generic.double()
    positive = plain[plain > 0]
    floor = positive.min() if positive.numel() else plain.new_ones(())
    ratio = asked / torch.where(plain > 0, plain, floor)
    return ratio.clamp(max=torch.finfo(torch.float64).max)


@dataclass(frozen=True)
class _Search:
    """What windows are tried, and on what grid."""

    rows: int
    columns: int
    crop_size: int
    ratios: tuple[float, ...]
    min_cells: int


@dataclass(frozen=True)
class _Window:
    """The best place of one window size: its side in pixels, first cell, extent in cells, and sharpness."""

    side: float
    x: int
    y: int
    nx: int
    ny: int
    sharpness: Fraction


def _row(question: Tensor, generic: Tensor, width: int, height: int, search: _Search) -> Box:
    """The box of one row."""
    attention = torch.stack((question, generic))
    if not (attention.isfinite() & (attention >= 0)).all():
        return NO_REGION
    if not (1 <= width <= MAX_PIXELS and 1 <= height <= MAX_PIXELS):
        return NO_REGION
    steps = _in_steps(relative_attention(question, generic)).reshape(search.rows, search.columns)
    cell_width, cell_height = width / search.columns, height / search.rows
    crop_size = max(
        search.crop_size,
        math.ceil(Fraction(search.min_cells * width, search.columns)),
        math.ceil(Fraction(search.min_cells * height, search.rows)),
    )
    best: _Window | None = None
    for index, ratio in enumerate(search.ratios):
        nx = _cells(crop_size * ratio / cell_width, search.min_cells, search.columns)
        ny = _cells(crop_size * ratio / cell_height, search.min_cells, search.rows)
        if (nx, ny) == (search.columns, search.rows):
            if index == 0:
                return 0, 0, width, height
            continue
        window = _sharpest(steps, crop_size * ratio, nx, ny)
        if best is None or window.sharpness > best.sharpness:
            best = window
    assert best is not None  # the first ratio either returned or set it
    centre_x = int(best.x * cell_width + cell_width * best.nx / 2)
    centre_y = int(best.y * cell_height + cell_height * best.ny / 2)
    left, right = _span(centre_x, best.side, width)
    top, bottom = _span(centre_y, best.side, height)
    return left, top, right, bottom


def _in_steps(relative: Tensor) -> Tensor:
    """The cells as int64 multiples of 2**(exponent - bits), so that the sum of all stays below 2**61."""
    bits = 61 - relative.numel().bit_length()
    _, exponent = math.frexp(float(relative.max()))
    # In two factors, for 2**(bits - exponent) alone may overflow. Halves round to even.
    shift = bits - exponent
    scaled = relative * 2.0 ** (shift // 2) * 2.0 ** (shift - shift // 2)
    return scaled.round().long()


def _cells(exact: float, least: int, most: int) -> int:
    """The whole cells of a window, at least `least`, but at most all there are."""
    return min(max(int(min(exact, float(most))), least), most)


def _sharpest(steps: Tensor, side: float, nx: int, ny: int) -> _Window:
    """The first of the windows with the largest sum, x-major."""
    sums = steps.unfold(0, ny, 1).sum(-1).unfold(1, nx, 1).sum(-1)
    height, width = sums.shape
    x, y = divmod(int(sums.T.flatten().argmax()), height)
    places = ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1))
    around = [int(sums[v, u]) for u, v in places if 0 <= u < width and 0 <= v < height]
    lead = int(sums[y, x]) - Fraction(sum(around), len(around))
    return _Window(side, x, y, nx, ny, lead / (nx * ny))


def _span(centre: int, side: float, length: int) -> tuple[int, int]:
    """[start, stop) of a window around `centre`, moved into [0, length), or all of it when that is
    shorter."""
    half = max(1, int(min(side, 2.0 * length) // 2))
    centre = min(max(centre, half), length - half)
    return max(0, centre - half), min(length, centre + half)


def _check(
    question: Tensor,
    generic: Tensor,
    rows: int,
    columns: int,
    sizes: Tensor,
    crop_size: int,
    ratios: Sequence[float],
    min_cells: int,
) -> None:
    _check_settings(rows, columns, crop_size, ratios, min_cells)
    if question.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"question must be float32 or float64, not {question.dtype}")
    if generic.dtype != question.dtype:
        raise TypeError(f"generic must be {question.dtype} as question is, not {generic.dtype}")
    if sizes.dtype != torch.int64:
        raise TypeError(f"sizes must be int64, not {sizes.dtype}")
    batch = question.shape[0] if question.dim() else 0
    for name, tensor, last in (
        ("question", question, rows * columns),
        ("generic", generic, rows * columns),
        ("sizes", sizes, 2),
    ):
        if tuple(tensor.shape) != (batch, last):
            raise ValueError(f"{name} must have shape [{batch}, {last}], not {list(tensor.shape)}")
        if tensor.device != question.device:
            raise ValueError(f"{name} must be on {question.device} as question is, not on {tensor.device}")
        if last > 1 and tensor.stride(1) != 1:
            raise ValueError(f"{name} must be contiguous in its rows, but its strides are {tensor.stride()}")


def _check_settings(rows: int, columns: int, crop_size: int, ratios: Sequence[float], min_cells: int) -> None:
    for name, value, most in (
        ("rows", rows, MAX_CELLS),
        ("columns", columns, MAX_CELLS),
        ("rows * columns", rows * columns, MAX_CELLS),
        ("crop_size", crop_size, MAX_PIXELS),
        ("min_cells", min_cells, MAX_PIXELS),
    ):
        if not 1 <= value <= most:
            raise ValueError(f"{name} must be from 1 to {most}, not {value}")
    if not 1 <= len(ratios) <= MAX_RATIOS:
        raise ValueError(f"ratios must be 1 to {MAX_RATIOS} numbers, not {len(ratios)}")
    ascending = all(low < high for low, high in pairwise(ratios))
    if not ascending or not all(1 <= ratio < math.inf for ratio in ratios):
        raise ValueError(f"ratios must be ascending numbers of at least 1, not {list(ratios)}")


def _fake(
    question: Tensor,
    generic: Tensor,
    rows: int,
    columns: int,
    sizes: Tensor,
    crop_size: int,
    ratios: Sequence[float],
    min_cells: int,
) -> Tensor:
    return question.new_empty((question.shape[0], 4), dtype=torch.int64)


_operator: Final = register(
    "find_region(Tensor question, Tensor generic, int rows, int columns, Tensor sizes, int crop_size, "
    "float[] ratios, int min_cells) -> Tensor",
    check=_check,
    reference=find_region_reference,
    fake=_fake,
)
