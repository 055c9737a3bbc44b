"""What Qwen's models share: pictures of their own shapes, rotary positions in three dimensions (M-RoPE).

Wang et al., arXiv 2409.12191. A picture keeps its shape, in cells of two by two patches, one row of the
decoder each. Its rows take no more positions than its longer side has cells, so that text behind it is nearer
to it than places in the cache tell.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from pydantic import PositiveInt, ValidationError
from torch import Tensor, nn

from secondlook.edge.errors import SettingsError
from secondlook.edge.validation import told, validated
from secondlook.edge.wire import Budget, Filter, View
from secondlook.engine.devices import to_device
from secondlook.engine.errors import InvalidModelError, UnsupportedModelError
from secondlook.engine.models.adapter import Adapter
from secondlook.engine.models.base import Features, Prompt
from secondlook.engine.models.checkpoint import Checkpoint
from secondlook.engine.models.pictures import Grid, Normalisation, Picture, normalisation_of
from secondlook.engine.models.prompts import ChatPrompts, QuestionTokens
from secondlook.engine.models.qwen_vision import QwenGraph, QwenVision
from secondlook.engine.models.settings import Localisation, LookSettings
from secondlook.engine.models.vision import VisionEncoder, VisionGraph

__all__ = ["CROP_SIZE", "MOST_CELLS", "Patching", "Qwen", "layout", "loaded", "patch_rows"]

CROP_SIZE = 224
"""Side of the smallest region, in original pixels (Zhang et al., arXiv 2502.17422)."""

MOST_CELLS = 256
"""Of one picture, global or local, as in their experiments; a folder's settings may say fewer."""

_FILTERS: dict[int, Filter] = {1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}  # Pillow's numbers
_LEAST, _MOST = 56 * 56, 28 * 28 * 1280  # pixels, where a folder says nothing


@validated(frozen=True)
class Patching:
    """How pictures become patches.

    Attributes:
        patch: side of a patch, in pixels.
        merge: side of a cell, in patches.
        frames: that a patch spans; those of a picture are alike.
        view: of every picture, global or local.
    """

    normalisation: Normalisation
    patch: PositiveInt
    merge: PositiveInt
    frames: PositiveInt
    view: View

    @property
    def cell(self) -> int:
        """Side of a cell, in pixels."""
        return self.patch * self.merge


def loaded(checkpoint: Checkpoint, kind: Any, config: Any, default: Localisation) -> Qwen:
    """The model of a folder; raises as `Checkpoint` does.

    Args:
        kind: transformers' class.
        default: where the model is asked to look closer, unless the folder says.
    """
    settings = checkpoint.settings()
    patching = _patching(checkpoint, config.vision_config)
    prompts = checkpoint.prompts(config, settings.question_suffix)
    localisation = checkpoint.localisation(default)
    module = checkpoint.weights(kind, config)
    return Qwen(checkpoint.name, module, prompts, patching, settings, localisation)


class Qwen(Adapter):
    """A `VisionLanguageModel`, see there."""

    def __init__(
        self,
        name: str,
        module: Any,
        prompts: ChatPrompts,
        patching: Patching,
        settings: LookSettings,
        localisation: Localisation,
    ) -> None:
        """`module` must have been loaded with the `secondlook` attention for its language model."""
        views, cell = (patching.view, patching.view), (patching.cell, patching.cell)
        super().__init__(name, module, prompts, settings, localisation, views, cell)
        self.patching = patching
        self._normalise = self.normalisation.on(self.device)
        self._vision = QwenVision(module.model.visual)
        self._graph = QwenGraph(self._vision, max(self.most_visual_tokens), self.decoder.width)
        self._encoder: VisionEncoder | None = None
        self.vision_settings = self._vision.settings

    @property
    def normalisation(self) -> Normalisation:
        return self.patching.normalisation

    def layout(self, grid: Grid) -> Tensor:
        return layout(grid)

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture]) -> list[Features]:
        passes, rest = getattr(self._encoder, "passes", lambda count: [count]), iter(pictures)
        each = [list(islice(rest, count)) for count in passes(len(pictures))]
        return [features for some in each for features in self._encoded(some)]

    def _encoded(self, pictures: Sequence[Picture]) -> list[Features]:
        patches = torch.cat([self.patches(picture) for picture in pictures])
        places = self._vision.places([picture.grid for picture in pictures], self.device)
        counts = [picture.tokens for picture in pictures]
        if self._encoder is None:
            found = self._vision(patches, places)
        else:
            given = self._encoder(*self._graph.inputs(patches, places))
            found = [one.to(self.dtype) for one in ([given] if isinstance(given, Tensor) else given)]
        layers = [layer.split(counts) for layer in found]
        return [Features(tokens, tuple(deep)) for tokens, *deep in zip(*layers, strict=True)]

    def patches(self, picture: Picture) -> Tensor:
        """See `patch_rows`."""
        how = self.patching
        return patch_rows(self._normalise([picture])[0], how.patch, how.merge, how.frames)

    def vision_module(self) -> nn.Module:
        return self._vision

    def vision_graphs(self) -> Mapping[str, VisionGraph]:
        return {"encoder": VisionGraph(self._graph, self._graph.interface, self._graph.example)}

    def with_encoder(self, *encoders: VisionEncoder) -> Qwen:
        other = copy.copy(self)
        (other._encoder,) = encoders
        return other

    def with_module(self, module: Any) -> Qwen:
        parts = (self.prompts, self.patching, self.settings, self.localisation)
        return Qwen(self.name, module, *parts)

    def pixel_inputs(self, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        patches = torch.cat([self.patches(picture) for picture in pictures])
        grids = torch.tensor([(1, *picture.grid) for picture in pictures])
        grids[:, 1:] *= self.patching.merge
        return {"pixel_values": patches, "image_grid_thw": to_device(grids, self.device)}

    def text_inputs(self, prompt: Prompt, question: QuestionTokens) -> dict[str, Tensor]:
        inputs = super().text_inputs(prompt, question)
        kinds = (inputs["input_ids"] == self.module.config.image_token_id).int()
        return {**inputs, "mm_token_type_ids": kinds}


def layout(grid: Grid) -> Tensor:
    """Time, row and column of each cell of a picture [3, N]."""
    cells = torch.cartesian_prod(*map(torch.arange, grid)).T
    return torch.cat((torch.zeros_like(cells[:1]), cells))


def patch_rows(values: Tensor, patch: int, merge: int, frames: int) -> Tensor:
    """Values [3, H, W] as patches [R, 3 · frames · patch²], cell by cell, as of transformers' processor.

    Args:
        patch, merge, frames: see `Patching`.
    """
    rows, columns = (side // (patch * merge) for side in values.shape[1:])
    parts = values.reshape(3, rows, merge, patch, columns, merge, patch).permute(1, 4, 2, 5, 0, 3, 6)
    alike = parts.unsqueeze(5).expand(-1, -1, -1, -1, -1, frames, -1, -1)
    return alike.reshape(rows * columns * merge**2, -1)


def _patching(checkpoint: Checkpoint, vision: Any) -> Patching:
    folder, values = checkpoint.folder, checkpoint.image_processor()
    kind = str(values.get("image_processor_type", "Qwen2VLImageProcessor"))
    resample = values.get("resample", 3)
    if not kind.startswith("Qwen2VLImageProcessor") or resample not in _FILTERS:
        raise UnsupportedModelError(
            f"{folder}: image processor {kind}, resample {resample}; supported is Qwen2VLImageProcessor "
            f"with a resample of {', '.join(map(str, _FILTERS))}"
        )
    for name, there, default in (
        ("patch_size", vision.patch_size, 14),
        ("merge_size", vision.spatial_merge_size, 2),
        ("temporal_patch_size", vision.temporal_patch_size, 2),
    ):
        if values.get(name, default) != there:
            raise InvalidModelError(
                f"{folder}: the preprocessor's {name} is {values.get(name, default)}, but the vision tower "
                f"has {there}"
            )
    cell, size = vision.patch_size * vision.spatial_merge_size, values.get("size") or {}
    try:
        most = min(values.get("max_pixels") or size.get("longest_edge", _MOST), MOST_CELLS * cell**2)
        least = min(values.get("min_pixels") or size.get("shortest_edge", _LEAST), most)
        rule = Budget(multiple=cell, least_pixels=least, most_pixels=most)
        return Patching(
            normalisation=normalisation_of(values),
            patch=vision.patch_size,
            merge=vision.spatial_merge_size,
            frames=vision.temporal_patch_size,
            view=View(size=rule, filter=_FILTERS[resample]),
        )
    except (AttributeError, SettingsError, TypeError, ValueError) as error:
        what = told(error, ()) if isinstance(error, ValidationError) else error
        raise InvalidModelError(f"{folder}: the preprocessor's settings: {what}") from error
