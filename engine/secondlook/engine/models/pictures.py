"""Pictures as models take them, and the numbers that vision encoders take of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from secondlook.edge.geometry import Size, most_pixels
from secondlook.edge.imaging import fit_to_view
from secondlook.edge.validation import validated
from secondlook.edge.wire import Fixed, View
from secondlook.engine.devices import to_device

__all__ = [
    "Colour",
    "Grid",
    "Normalisation",
    "Normaliser",
    "Picture",
    "Preprocessing",
    "Spread",
    "fitted",
    "largest_grid",
    "normalisation_of",
]

Grid: TypeAlias = tuple[int, int]
"""Rows and columns of a picture's map."""

Colour: TypeAlias = tuple[float, float, float]
Spread: TypeAlias = tuple[PositiveFloat, PositiveFloat, PositiveFloat]

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as a model takes it.

    Attributes:
        shown: size of the original, or of its region, that the picture shows.
        pixels: [H, W, 3] uint8, on the CPU, H and W as the view's target for that size; of a picture in tiles
            [1 + T, S, S, 3], the whole in one tile first.
        grid: of its map.
        tokens: of it for the vision encoder: what a pass with it costs.
        digest: of the pixels and the grid.
    """

    shown: Size
    pixels: Tensor
    grid: Grid
    tokens: int
    digest: bytes


def fitted(image: Image.Image, view: View, original: Size, cell: tuple[int, int]) -> Picture:
    """An image brought to a view's target, with a grid of cells of so many pixels (height, width).

    Raises:
        GeometryError: see `secondlook.edge.geometry.target`.
    """
    pixels = np.array(fit_to_view(image, view, original))
    rows, columns = pixels.shape[0] // cell[0], pixels.shape[1] // cell[1]
    digest = hashlib.blake2b(pixels.data, digest_size=16, salt=f"{rows}x{columns}".encode()).digest()
    return Picture(original, torch.from_numpy(pixels), (rows, columns), rows * columns, digest)


def largest_grid(view: View, cell: tuple[int, int]) -> Grid:
    """A grid with as many cells as that of any picture under the view has at most."""
    if isinstance(view.size, Fixed):
        return view.size.height // cell[0], view.size.width // cell[1]
    return 1, most_pixels(view) // (cell[0] * cell[1])


@validated(frozen=True)
class Normalisation:
    """The numbers that a vision encoder takes pixels with.

    Attributes:
        mean, std: per channel, applied to values scaled by `scale`.
        scale: multiplies the 8-bit values.
    """

    mean: Colour
    std: Spread
    scale: PositiveFloat = 1 / 255

    def on(self, device: torch.device) -> Normaliser:
        """What applies them on a device."""
        return Normaliser(self, device)


class Normaliser:
    """Pixels to the values that an encoder takes, on a device, where mean and std lie once for all."""

    def __init__(self, numbers: Normalisation, device: torch.device) -> None:
        self._device, self._scale = device, numbers.scale
        three = (numbers.mean, numbers.std)
        self._mean, self._std = (torch.tensor(values, device=device).view(3, 1, 1) for values in three)

    def __call__(self, pictures: Sequence[Picture]) -> Tensor:
        """Values [n, 3, H, W] float32 of pictures of one size."""
        return self.values(torch.stack([picture.pixels for picture in pictures]))

    def values(self, pixels: Tensor) -> Tensor:
        """Values [n, 3, H, W] float32 of pixels [n, H, W, 3] uint8 on any device."""
        values = to_device(pixels, self._device).movedim(-1, -3).float() * self._scale
        return ((values - self._mean) / self._std).contiguous()


@validated(frozen=True)
class Preprocessing:
    """How an encoder takes pictures that are fitted to one square.

    Attributes:
        side: of the square, in pixels.
    """

    side: PositiveInt
    normalisation: Normalisation


def normalisation_of(values: Mapping[str, Any]) -> Normalisation:
    """What an image processor's settings say; by default CLIP's numbers.

    Raises:
        SettingsError, TypeError, ValueError: they say nothing of the kind.
    """
    normalise, rescale = values.get("do_normalize", True), values.get("do_rescale", True)
    return Normalisation(
        mean=tuple(values.get("image_mean") or _CLIP_MEAN) if normalise else (0.0, 0.0, 0.0),
        std=tuple(values.get("image_std") or _CLIP_STD) if normalise else (1.0, 1.0, 1.0),
        scale=float(values.get("rescale_factor", 1 / 255)) if rescale else 1.0,
    )
