"""Where to look closer: from two attention maps to a region of the original.

The search of Zhang et al., arXiv 2502.17422 (ViCrop), is the operator `secondlook.kernels.find_region`; here
is what it means for pictures: sizes, padding, regions. Beside it is the box of Q-Zoom, arXiv 2604.06912: a
rectangle around all that stands out.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import conv2d

from secondlook import kernels
from secondlook.edge.errors import GeometryError, SettingsError
from secondlook.edge.geometry import Region, Size
from secondlook.edge.validation import validated
from secondlook.edge.wire import Fit
from secondlook.kernels.find_region import MAX_PIXELS, MAX_RATIOS

__all__ = ["RegionSettings", "Rule", "Share", "find_region", "without_sinks"]

Rule: TypeAlias = Literal["squares", "box"]
Share: TypeAlias = Annotated[float, Field(gt=0, lt=1)]

_NOT_ATTENTION = "attention must be finite and not negative, but a map holds other values"

Ratios = Annotated[
    tuple[Annotated[float, Field(ge=1)], ...], Field(min_length=1, max_length=MAX_RATIOS, strict=False)
]


@validated(frozen=True)
class RegionSettings:
    """How a region is sought.

    Attributes:
        crop_size: side of the smallest window, in original pixels; in the paper that of what the model sees.
        ratios: window sides in multiples of crop_size, ascending. When the first covers the whole map, the
            whole image is the region.
        min_cells: windows are at least so many cells wide and high; on large originals the crop size grows
            for it.
        rule: "squares" tries windows; "box" takes the smallest rectangle around the cells above a share of
            the largest, in a map smoothed by a 3x3 Gaussian: at least crop_size and min_cells wide and high,
            as far as the picture is.
        share: of the largest cell, for "box".
    """

    crop_size: Annotated[int, Field(ge=1, le=MAX_PIXELS)]
    ratios: Ratios = (1, 1.2, 1.4, 1.6, 1.8, 2)
    min_cells: Annotated[int, Field(ge=1, le=MAX_PIXELS)] = 1
    rule: Rule = "squares"
    share: Share = 0.2

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
    """Where attention, relative to that of the generic question, stands out most.

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
    left, top, right, bottom = (_box if settings.rule == "box" else _window)(
        question, generic, covered, settings
    )
    across = _clip(left, right, (covered.width - image.width) // 2, image.width)
    down = _clip(top, bottom, (covered.height - image.height) // 2, image.height)
    return Region(across[0], down[0], across[1], down[1])


def without_sinks(attention: Tensor, sinks: Tensor, threshold: float) -> Tensor:
    """A map, 0 where `sinks`, of its shape, is at least `threshold`; as it was where that is everywhere."""
    kept = sinks < threshold
    return torch.where(kept | ~kept.any(), attention, 0.0)


def _window(
    question: Tensor, generic: Tensor, covered: Size, settings: RegionSettings
) -> tuple[int, int, int, int]:
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
        raise GeometryError(_NOT_ATTENTION)
    return left, top, right, bottom


def _box(
    question: Tensor, generic: Tensor, covered: Size, settings: RegionSettings
) -> tuple[int, int, int, int]:
    maps = torch.stack([question, generic]).double().cpu()
    if not (maps.isfinite() & (maps >= 0)).all():
        raise GeometryError(_NOT_ATTENTION)
    relative = kernels.relative_attention(*maps)
    blurred = _smoothed(relative / relative.max().clamp(min=torch.finfo(torch.float64).tiny))
    # A map without any attention says nothing: then all of it stands out.
    salient = (blurred > settings.share * blurred.max()) | (blurred.max() == 0)
    sides = []
    for cells, pixels in ((salient.any(dim=0), covered.width), (salient.any(dim=1), covered.height)):
        there, count = cells.nonzero().flatten().tolist(), len(cells)
        start, stop = there[0] * pixels // count, -(-(there[-1] + 1) * pixels // count)
        least = min(pixels, max(settings.crop_size, -(-settings.min_cells * pixels // count)))
        if stop - start < least:
            start = min(max(0, (start + stop - least) // 2), pixels - least)
            stop = start + least
        sides.append((start, stop))
    (left, right), (top, bottom) = sides
    return left, top, right, bottom


def _smoothed(grid: Tensor) -> Tensor:
    """With the kernel [1, 2, 1] both ways; at the edges, with what of it is inside."""
    line = torch.tensor([1.0, 2.0, 1.0], dtype=grid.dtype)
    kernel = torch.outer(line, line)[None, None]
    summed, weights = (conv2d(each[None, None], kernel, padding=1) for each in (grid, torch.ones_like(grid)))
    return (summed / weights)[0, 0]


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
