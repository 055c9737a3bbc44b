"""Where to look closer: from two attention maps to a region of the original.

Zhang et al., arXiv 2502.17422 (ViCrop): relative attention, and a search over windows of several sizes for
the one that stands out most sharply from its neighbours. Boxes equal those of the published implementation;
where that one divides by zero, or lets rounding noise decide between equal windows, this one stays defined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from secondlook.edge.errors import GeometryError, SettingsError
from secondlook.edge.geometry import Region, Size

__all__ = ["RegionSettings", "find_region", "find_region_padded", "relative_attention"]

Map = NDArray[np.float64]


@dataclass(frozen=True)
class RegionSettings:
    """What windows are tried.

    Attributes:
        crop_size: side of the smallest window, in original pixels; the encoder's input side in the paper.
        ratios: window sides in multiples of crop_size, ascending. When the first covers the whole map, the
            whole image is the region.
        min_cells: windows are at least so many cells wide and high; on large originals the crop size grows
            for it.
    """

    crop_size: int
    ratios: tuple[float, ...] = (1, 1.2, 1.4, 1.6, 1.8, 2)
    min_cells: int = 1

    def __post_init__(self) -> None:
        if self.crop_size < 1:
            raise SettingsError(f"crop_size must be at least 1 pixel, got {self.crop_size}")
        if self.min_cells < 1:
            raise SettingsError(f"min_cells must be at least 1, got {self.min_cells}")
        ascending = all(low < high for low, high in zip(self.ratios, self.ratios[1:], strict=False))
        if not self.ratios or not ascending or not all(1 <= r < math.inf for r in self.ratios):
            raise SettingsError(f"ratios must be ascending numbers of at least 1, got {self.ratios}")


def relative_attention(question: NDArray[np.floating], generic: NDArray[np.floating]) -> Map:
    """A(question) / A(generic), element by element (ViCrop, section 4), finite for every input.

    Where the generic attention is zero (it underflowed), its smallest positive value stands in, so that the
    cell counts as one the generic question hardly looks at; a generic map without positive values changes
    nothing. A ratio too large for float64 becomes the largest float64.

    Args:
        question, generic: [h, w], non-negative and finite.

    Raises:
        GeometryError: the maps differ in shape, are not two-dimensional, or hold negative or non-finite
        values.
    """
    numerator, denominator = _checked(question), _checked(generic)
    if numerator.shape != denominator.shape:
        raise GeometryError(
            f"attention maps of different shapes: question {numerator.shape}, generic {denominator.shape}"
        )
    if min(numerator.min(), denominator.min()) < 0:
        raise GeometryError("attention is never negative, but a map holds a negative value")
    positive = denominator[denominator > 0]
    floor = float(positive.min()) if positive.size else 1.0
    with np.errstate(over="ignore"):
        ratio = numerator / np.where(denominator > 0, denominator, floor)
    finite: Map = np.minimum(ratio, np.finfo(np.float64).max)
    return finite


def find_region(attention: NDArray[np.floating], image: Size, settings: RegionSettings) -> Region:
    """The window that stands out most from its neighbours, as a region of the original.

    Args:
        attention: [h, w], finite, covering the whole of `image` linearly (a squashed global image).
        image: the original's size in pixels.

    Raises:
        GeometryError: the map is empty, not two-dimensional, or holds NaN or infinity.

    The map is rounded once to integers, in steps of 2⁻⁵⁰ of its largest value for up to 1,000 cells; all sums
    and comparisons after that are exact, so equal windows tie exactly and the first in x-major order wins.
    """
    values = _checked(attention)
    rows, columns = values.shape
    table = _summed_area_table(values)
    cell_width, cell_height = image.width / columns, image.height / rows
    crop_size = _crop_size(image, rows, columns, settings)
    best: tuple[Fraction, float, int, int, int, int] | None = None
    for ratio in settings.ratios:
        nx = min(max(int(crop_size * ratio / cell_width), settings.min_cells), columns)
        ny = min(max(int(crop_size * ratio / cell_height), settings.min_cells), rows)
        if nx == columns and ny == rows:
            if ratio == settings.ratios[0]:
                return Region(0, 0, image.width, image.height)
            continue
        x, y, sharpness = _sharpest_window(table, nx, ny)
        if best is None or sharpness > best[0]:
            best = (sharpness, crop_size * ratio, x, y, nx, ny)
    assert best is not None  # the first ratio either returned or set it
    _, side, x, y, nx, ny = best
    half = max(1, int(side // 2))
    left, right = _span(int(x * cell_width + cell_width * nx / 2), half, image.width)
    top, bottom = _span(int(y * cell_height + cell_height * ny / 2), half, image.height)
    return Region(left, top, right, bottom)


def find_region_padded(attention: NDArray[np.floating], image: Size, settings: RegionSettings) -> Region:
    """`find_region` for a map that covers the picture centred in a padded square (LLaVA-1.5's training
    layout).

    The region is sought in the square of side max(W, H) original pixels, then clipped to the picture. A
    region wholly in the padding becomes the nearest strip of the picture, as wide as the region where the
    picture is.
    """
    side = max(image.width, image.height)
    found = find_region(attention, Size(side, side), settings)
    left, right = _clip(found.left, found.right, (side - image.width) // 2, image.width)
    top, bottom = _clip(found.top, found.bottom, (side - image.height) // 2, image.height)
    return Region(left, top, right, bottom)


def _checked(attention: NDArray[np.floating]) -> Map:
    values = np.asarray(attention, dtype=np.float64)
    if values.ndim != 2 or values.size == 0:
        raise GeometryError(f"an attention map has rows and columns, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise GeometryError("an attention map must be finite, but it holds NaN or infinity")
    return values


def _summed_area_table(values: Map) -> NDArray[np.int64]:
    """[h + 1, w + 1] exact integer sums of everything above and left."""
    rows, columns = values.shape
    largest = float(np.abs(values).max())
    table = np.zeros((rows + 1, columns + 1), dtype=np.int64)
    if largest > 0:
        # The sum of all cells stays below 2⁶². Two steps of scaling, for 1 / largest may overflow or
        # underflow.
        bits = 61 - math.ceil(math.log2(rows * columns + 1))
        _, exponent = math.frexp(largest)
        integers = np.rint(np.ldexp(np.ldexp(values, -exponent), bits)).astype(np.int64)
        table[1:, 1:] = integers.cumsum(axis=0).cumsum(axis=1)
    return table


def _sharpest_window(table: NDArray[np.int64], nx: int, ny: int) -> tuple[int, int, Fraction]:
    """x, y of the first window of nx by ny cells with the largest sum, and its sharpness."""
    sums = table[ny:, nx:] - table[:-ny, nx:] - table[ny:, :-nx] + table[:-ny, :-nx]
    height, width = sums.shape
    x, y = divmod(int(sums.T.argmax()), height)
    neighbours = [
        int(sums[y + dy, x + dx])
        for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1))
        if 0 <= x + dx < width and 0 <= y + dy < height
    ]
    lead = len(neighbours) * int(sums[y, x]) - sum(neighbours)
    return x, y, Fraction(lead, len(neighbours) * nx * ny)


def _crop_size(image: Size, rows: int, columns: int, settings: RegionSettings) -> int:
    """The crop size, grown where a window of it would have fewer than min_cells cells."""
    widest = max(Fraction(image.width, columns), Fraction(image.height, rows))
    return max(settings.crop_size, math.ceil(settings.min_cells * widest))


def _span(centre: int, half: int, length: int) -> tuple[int, int]:
    """[start, stop) of a window around `centre`, moved into [0, length), or all of it when that is
    shorter."""
    centre = min(max(centre, half), length - half)
    return max(0, centre - half), min(length, centre + half)


def _clip(start: int, stop: int, offset: int, length: int) -> tuple[int, int]:
    """[start, stop) of the padded square in the picture's own coordinates; never empty."""
    first, last = max(0, start - offset), min(length, stop - offset)
    if first < last:
        return first, last
    size = min(stop - start, length)
    return (0, size) if stop - offset <= 0 else (length - size, length)
