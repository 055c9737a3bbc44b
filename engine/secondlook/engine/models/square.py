"""Architectures whose vision encoder takes every picture in one square, as normalised pixels.

Such an encoder can be exported, and another can take its place (`secondlook.engine.encoders`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from secondlook.edge.errors import SettingsError
from secondlook.edge.wire import Filter, Fixed, View
from secondlook.engine.errors import InvalidModelError, UnsupportedModelError
from secondlook.engine.models.adapter import Adapter
from secondlook.engine.models.base import Features
from secondlook.engine.models.checkpoint import Checkpoint
from secondlook.engine.models.pictures import (
    Normalisation,
    Picture,
    Preprocessing,
    largest_grid,
    normalisation_of,
)
from secondlook.engine.models.prompts import ChatPrompts
from secondlook.engine.models.settings import Localisation, LookSettings
from secondlook.engine.models.vision import Axis, Interface, TensorType, VisionEncoder, VisionGraph

__all__ = ["SquareAdapter", "check_side", "square_preprocessing"]


class SquareAdapter(Adapter):
    """An `Adapter` with such an encoder; each of its kinds is made of `name`, `module` and `parts`.

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
        self._kind: Any = type(self)
        self.preprocessing = preprocessing
        self._normalise = preprocessing.normalisation.on(self.device)
        rows, columns = largest_grid(view, self.cell)
        self.features = rows * columns, self.decoder.width
        self._vision = vision
        self._encoder: VisionEncoder = vision

    @property
    def parts(self) -> tuple[ChatPrompts, Preprocessing, LookSettings, Localisation]:
        """What one is made of, beside a name and a module."""
        return self.prompts, self.preprocessing, self.settings, self.localisation

    @property
    def normalisation(self) -> Normalisation:
        return self.preprocessing.normalisation

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture]) -> list[Features]:
        return [Features(tokens) for tokens in self._encoder(self._pixels(pictures))]

    def _pixels(self, pictures: Sequence[Picture]) -> Tensor:
        return self._normalise(pictures).to(self.dtype)

    def with_module(self, module: Any) -> SquareAdapter:
        made: SquareAdapter = self._kind(self.name, module, *self.parts)
        return made

    def pixel_inputs(self, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        return {"pixel_values": self._pixels(pictures)}

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


def square_preprocessing(
    checkpoint: Checkpoint,
    side: int,
    kinds: tuple[str, ...],
    *,
    size: str,
    resample: int | None = None,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Preprocessing:
    """The numbers of a folder's image processor; raises as `Checkpoint` does.

    Args:
        side: of what the vision tower takes, in pixels.
        kinds: names of image processors that are supported; a folder that names none has the first.
        size: the setting that says what they bring pictures to.
        resample: Pillow's number of the filter that they resize by; None: any.
        defaults: of settings that a folder leaves out.
    """
    folder, values = checkpoint.folder, {**defaults, **checkpoint.image_processor()}
    kind, filtered = str(values.get("image_processor_type", kinds[0])), values.get("resample", resample)
    if not kind.startswith(kinds) or resample not in (None, filtered):
        by = "" if resample is None else f" with a resample of {resample}"
        raise UnsupportedModelError(
            f"{folder}: image processor {kind}, resample {filtered}; supported is {' or '.join(kinds)}{by}"
        )
    check_side(folder, size, values.get(size), side)
    try:
        return Preprocessing(side, normalisation_of(values))
    except (SettingsError, TypeError, ValueError) as error:
        raise InvalidModelError(f"{folder}: the preprocessor's settings: {error}") from error


def check_side(folder: Path, key: str, size: object, side: int) -> None:
    """Refuse a size of a preprocessor's that is not the vision tower's; None is no size.

    Raises:
        InvalidModelError: with key and size.
    """
    one = [{name: side} for name in ("shortest_edge", "longest_edge")]
    if size not in (None, side, {"height": side, "width": side}, *one):
        raise InvalidModelError(
            f"{folder}: the preprocessor's {key} is {size}, but the vision tower takes {side}x{side}"
        )
