"""Architectures whose vision encoder takes every picture in one square, as normalised pixels.

Such an encoder can be exported, and another can take its place (`secondlook.engine.encoders`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secondlook.edge.wire import Filter, Fixed, View
from secondlook.engine.models.adapter import Adapter
from secondlook.engine.models.base import Features, VisionEncoder
from secondlook.engine.models.pictures import Picture, Preprocessing
from secondlook.engine.models.prompts import ChatPrompts
from secondlook.engine.models.settings import Localisation, LookSettings

__all__ = ["SquareAdapter"]


class SquareAdapter(Adapter):
    """An `Adapter` with such an encoder."""

    def __init__(
        self,
        name: str,
        module: Any,
        prompts: ChatPrompts,
        preprocessing: Preprocessing,
        settings: LookSettings,
        localisation: Localisation,
        vision: nn.Module,
        cell: int,
        filter: Filter = "lanczos",  # noqa: A002 -- the view's name for it
    ) -> None:
        """
        Args:
            vision: pixels [n, 3, side, side] in the module's dtype to features [n, N, D].
            cell: side of a cell, in pixels.
            filter: by which pictures are brought to the square.
        """
        side = preprocessing.side
        view = View(size=Fixed(width=side, height=side), fit=settings.fit, filter=filter)
        super().__init__(name, module, prompts, settings, localisation, (view, view), (cell, cell))
        self._preprocessing = preprocessing
        self._vision = vision
        self._encoder: VisionEncoder = vision

    @property
    def preprocessing(self) -> Preprocessing:
        return self._preprocessing

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture]) -> list[Features]:
        return [Features(tokens) for tokens in self._encoder(**self.pixel_inputs(pictures))]

    def pixel_inputs(self, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        pixels = self.preprocessing.pixel_values(pictures, self.device)
        return {"pixel_values": pixels.to(self.dtype)}

    def vision_module(self) -> nn.Module:
        return self._vision

    def with_encoder(self, encoder: VisionEncoder) -> SquareAdapter:
        """The same model, on the same weights, with its pictures encoded by another."""
        other = copy.copy(self)
        other._encoder = encoder
        return other
