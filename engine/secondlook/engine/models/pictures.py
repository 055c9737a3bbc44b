"""Pictures as models take them, and the numbers that vision encoders take of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from secondlook.edge.geometry import Size, sent_size
from secondlook.edge.imaging import fit_to_view
from secondlook.edge.validation import validated
from secondlook.edge.wire import View
from secondlook.engine.devices import to_device
from secondlook.engine.errors import PictureMismatchError

__all__ = ["Grid", "Picture", "Preprocessing", "check_sent", "fitted"]

Grid: TypeAlias = tuple[int, int]
"""Rows and columns of a picture's map."""


@dataclass(frozen=True)
class Picture:
    """A picture as a model takes it.

    Attributes:
        shown: size of the original, or of its region, that the picture shows.
        pixels: [H, W, 3] uint8, on the CPU, H and W as the view's target for that size.
        grid: of its map.
        tokens: of it for the vision encoder: what a pass with it costs.
        digest: of the pixels and the grid.
    """

    shown: Size
    pixels: Tensor
    grid: Grid
    tokens: int
    digest: bytes


def check_sent(image: Image.Image, view: View, shown: Size, what: str) -> None:
    """Refuse an image larger than an edge sends of an original (or region) of this size.

    Args:
        what: the image is, for the message.

    Raises:
        PictureMismatchError: it is larger.
        GeometryError: see `secondlook.edge.geometry.target`.
    """
    most = sent_size(view, shown)
    if image.width > most.width or image.height > most.height:
        raise PictureMismatchError(
            f"the {what} has {image.width}x{image.height} pixels, but of {shown} pixels at most {most} are "
            "taken: shrink it to that, without padding, and never enlarge it"
        )


def fitted(image: Image.Image, view: View, original: Size, cell: tuple[int, int]) -> Picture:
    """An image brought to a view's target, with a grid of cells of so many pixels (height, width).

    Raises:
        GeometryError: see `secondlook.edge.geometry.target`.
    """
    pixels = np.array(fit_to_view(image, view, original))
    rows, columns = pixels.shape[0] // cell[0], pixels.shape[1] // cell[1]
    digest = hashlib.blake2b(pixels.data, digest_size=16, salt=f"{rows}x{columns}".encode()).digest()
    return Picture(original, torch.from_numpy(pixels), (rows, columns), rows * columns, digest)


@validated(frozen=True)
class Preprocessing:
    """A checkpoint's picture preprocessing, after fitting to the encoder's square.

    Attributes:
        side: the encoder's input side in pixels.
        mean, std: per channel, applied to values scaled by `scale`.
        scale: multiplies the 8-bit values.
    """

    side: PositiveInt
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    scale: PositiveFloat = 1 / 255

    def pixel_values(self, pictures: Sequence[Picture], device: torch.device) -> Tensor:
        """Normalised values [n, 3, side, side] float32 on a device."""
        pixels = to_device(torch.stack([picture.pixels for picture in pictures]), device)
        values = pixels.permute(0, 3, 1, 2).float() * self.scale
        mean, std = (to_device(torch.tensor(three).view(3, 1, 1), device) for three in (self.mean, self.std))
        return ((values - mean) / std).contiguous()
