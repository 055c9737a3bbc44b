"""From pictures to visual features: preprocessing, and the vision encoder as a seam."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from secondlook.edge.errors import SettingsError
from secondlook.edge.imaging import fit_to_square
from secondlook.edge.wire import ResizeMode
from secondlook.engine.devices import to_device
from secondlook.engine.models.clip import ClipVision

__all__ = ["Preprocessing", "Square", "TorchVisionEncoder", "VisionEncoder"]


class VisionEncoder(Protocol):
    """Vision tower and projector as one function.

    Takes pixel values [n, 3, S, S] in the dtype and on the device of the model, normalised; returns features
    [n, N, D] in the language model's width, dtype and device. Rows of N run through the patches row-major.
    """

    def __call__(self, pixel_values: Tensor) -> Tensor: ...


class TorchVisionEncoder:
    """The checkpoint's own vision tower and projector, in torch."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        self.module = ClipVision(model)

    @torch.inference_mode()
    def __call__(self, pixel_values: Tensor) -> Tensor:
        features: Tensor = self.module(pixel_values)
        return features


@dataclass(frozen=True)
class Square:
    """A picture fitted to the encoder's square.

    Attributes:
        width, height: of the picture that it was made from.
        pixels: [S, S, 3] uint8, on the CPU.
        digest: of the pixels.
    """

    width: int
    height: int
    pixels: Tensor
    digest: bytes


@dataclass(frozen=True)
class Preprocessing:
    """A checkpoint's picture preprocessing, after fitting to the square.

    Attributes:
        side: the encoder's input side in pixels.
        mode: how a picture is fitted to it.
        mean, std: per channel, applied to values scaled by `scale`.
        scale: multiplies the 8-bit values.
    """

    side: int
    mode: ResizeMode
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float = 1 / 255

    def __post_init__(self) -> None:
        if self.side < 1:
            raise SettingsError(f"the encoder's side must be at least 1 pixel, not {self.side}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise SettingsError(f"{name} must be three finite numbers, not {values!r}")
        if not all(value > 0 for value in (*self.std, self.scale)):
            raise SettingsError(f"std and scale must be positive, not {self.std!r} and {self.scale!r}")

    def square(self, image: Image.Image) -> Square:
        """Fit a picture of any size to the square. May be called on any thread."""
        pixels = np.array(fit_to_square(image, self.side, self.mode))
        digest = hashlib.blake2b(pixels.data, digest_size=16).digest()
        return Square(image.width, image.height, torch.from_numpy(pixels), digest)

    def pixel_values(self, squares: Sequence[Square], device: torch.device) -> Tensor:
        """Normalised values [n, 3, side, side] float32 on a device."""
        pixels = to_device(torch.stack([square.pixels for square in squares]), device)
        values = pixels.permute(0, 3, 1, 2).float() * self.scale
        mean, std = (to_device(torch.tensor(three).view(3, 1, 1), device) for three in (self.mean, self.std))
        return ((values - mean) / std).contiguous()
