"""Architectures whose vision encoder takes every picture in one square, as normalised pixels.

Such an encoder can be exported, and another can take its place (`secondlook.engine.encoders`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from secondlook.edge.wire import Filter, Fixed, View
from secondlook.engine.models.adapter import Adapter
from secondlook.engine.models.base import Features
from secondlook.engine.models.pictures import Normalisation, Picture, Preprocessing
from secondlook.engine.models.prompts import ChatPrompts
from secondlook.engine.models.settings import Localisation, LookSettings
from secondlook.engine.models.vision import Axis, Interface, TensorType, VisionEncoder, VisionGraph

__all__ = ["SquareAdapter"]


class SquareAdapter(Adapter):
    """An `Adapter` with such an encoder.

    Attributes:
        preprocessing: of the pictures.
        features: rows and width of what the encoder makes of one.
    """

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
        self.preprocessing = preprocessing
        self.features = self.most_visual_tokens[0], self.decoder.width
        self._vision = vision
        self._encoder: VisionEncoder = vision

    @property
    def normalisation(self) -> Normalisation:
        numbers = self.preprocessing
        return Normalisation(numbers.mean, numbers.std, numbers.scale)

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture]) -> list[Features]:
        pixels = self.preprocessing.pixel_values(pictures, self.device)
        return [Features(tokens) for tokens in self._encoder(pixels.to(self.dtype))]

    def vision_module(self) -> nn.Module:
        return self._vision

    def vision_graphs(self) -> Mapping[str, VisionGraph]:
        picture = 3, self.preprocessing.side, self.preprocessing.side
        interface = Interface(
            (TensorType("pixel_values", ("batch", *picture)),),
            (TensorType("features", ("batch", *self.features)),),
            {"batch": Axis(1, 1)},
        )
        return {"encoder": VisionGraph(self._vision, interface, lambda: (torch.zeros(2, *picture),))}

    def with_encoder(self, *encoders: VisionEncoder) -> SquareAdapter:
        other = copy.copy(self)
        (other._encoder,) = encoders
        return other
