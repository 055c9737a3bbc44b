"""From pictures to visual features: preprocessing, and the vision encoder as a seam."""

from __future__ import annotations

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

__all__ = ["Preprocessing", "TorchVisionEncoder", "VisionEncoder"]


class VisionEncoder(Protocol):
    """Vision tower and projector as one function.

    Takes pixel values [n, 3, S, S] in the dtype and on the device of the model, normalised; returns features
    [n, N, D] in the language model's width, dtype and device. Rows of N run through the patches row-major.
    """

    def __call__(self, pixel_values: Tensor) -> Tensor: ...


class TorchVisionEncoder:
    """The checkpoint's own vision tower and projector, in torch."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        self._model = model

    @torch.inference_mode()
    def __call__(self, pixel_values: Tensor) -> Tensor:
        output = self._model.get_image_features(pixel_values=pixel_values, return_dict=True)
        return torch.stack(list(output.pooler_output))


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

    def pixel_values(self, images: Sequence[Image.Image]) -> Tensor:
        """[n, 3, side, side] float32 on the CPU."""
        squares = [np.asarray(fit_to_square(image, self.side, self.mode)) for image in images]
        values = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() * self.scale
        mean, std = torch.tensor(self.mean).view(3, 1, 1), torch.tensor(self.std).view(3, 1, 1)
        return ((values - mean) / std).contiguous()
