"""Where to look closer: from two attention maps to a region of the original.

The search of Zhang et al., arXiv 2502.17422 (ViCrop), is the operator `secondlook.kernels.find_region`; here
is what it means for pictures: sizes, padding, regions.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from secondlook import kernels
from secondlook.edge.errors import GeometryError, SettingsError
from secondlook.edge.geometry import Region, Size
from secondlook.edge.validation import validated
from secondlook.edge.wire import Fit
from secondlook.kernels.find_region import MAX_PIXELS, MAX_RATIOS

__all__ = ["RegionSettings", "find_region"]


Ratios = Annotated[
    tuple[Annotated[float, Field(ge=1)], ...], Field(min_length=1, max_length=MAX_RATIOS, strict=False)
]


@validated(frozen=True)
class RegionSettings:
    """What windows are tried.

    Attributes:
        crop_size: side of the smallest window, in original pixels; in the paper that of what the model sees.
        ratios: window sides in multiples of crop_size, ascending. When the first covers the whole map, the
            whole image is the region.
        min_cells: windows are at least so many cells wide and high; on large originals the crop size grows
            for it.
    """

    crop_size: Annotated[int, Field(ge=1, le=MAX_PIXELS)]
    ratios: Ratios = (1, 1.2, 1.4, 1.6, 1.8, 2)
    min_cells: Annotated[int, Field(ge=1, le=MAX_PIXELS)] = 1

    def __post_init__(self) -> None:
        if not all(low < high for low, high in pairwise(self.ratios)):
            raise SettingsError(f"ratios must be ascending, not {self.ratios}")


def find_region(
    question: Tensor,  # [rows, columns]
    generic: Tensor,  # [rows, columns]
    image: Size,
    settings: RegionSettings,
    seen: Size | None = None,
    fit: Fit = "squash",
) -> Region:
    """The window whose attention, relative to that of the generic question, stands out most.

    Waits for the device.

    Args:
        question, generic: attention to the global image's tokens, float32 or float64.
        image: the original's size in pixels.
        seen: the size that the model saw the original in.
        fit: how the original became that. In fit pad the maps cover the padding too, a rectangle of `seen`'s
            shape that the picture is centred in; the region is sought there and clipped to the picture. One
            wholly in the padding becomes the nearest strip of the picture, as wide as the region where the
            picture is.

    Raises:
        GeometryError: the maps differ in shape or are empty, or hold a negative or non-finite value.
    """
    if question.shape != generic.shape or question.dim() != 2 or question.numel() == 0:
        raise GeometryError(
            "two attention maps must have the same rows and columns, but their shapes are "
            f"{list(question.shape)} and {list(generic.shape)}"
        )
    covered = image if fit == "squash" or seen is None else _padded(image, seen)
    rows, columns = question.shape
    box = kernels.find_region(
        question.reshape(1, -1).contiguous(),
        generic.reshape(1, -1).contiguous(),
        rows,
        columns,
        torch.tensor([[covered.width, covered.height]], device=question.device),
        settings.crop_size,
        settings.ratios,
        settings.min_cells,
    )
    left, top, right, bottom = box[0].tolist()
    if left < 0:
        raise GeometryError("attention must be finite and not negative, but a map holds other values")
    across = _clip(left, right, (covered.width - image.width) // 2, image.width)
    down = _clip(top, bottom, (covered.height - image.height) // 2, image.height)
    return Region(across[0], down[0], across[1], down[1])


def _padded(image: Size, seen: Size) -> Size:
    """The smallest rectangle of the shape of `seen` that the image fits in, in the image's pixels."""
    if image.width * seen.height >= image.height * seen.width:
        return Size(image.width, max(image.height, round(image.width * seen.height / seen.width)))
    return Size(max(image.width, round(image.height * seen.width / seen.height)), image.height)


def _clip(start: int, stop: int, offset: int, length: int) -> tuple[int, int]:
    """[start, stop) of the covered area in the picture's own coordinates; never empty."""
    first, last = max(0, start - offset), min(length, stop - offset)
    if first < last:
        return first, last
    size = min(stop - start, length)
    return (0, size) if stop - offset <= 0 else (length - size, length)
