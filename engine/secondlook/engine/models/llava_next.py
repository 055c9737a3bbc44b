"""LLaVA-NeXT (Liu et al., January 2024): LLaVA-1.5's parts, with a picture in one square, or also in tiles.

Two looks are at one square each, the *base view*: what the tiles are for is what a second look is for. A
picture in its base view and in tiles is the *high-resolution baseline*: one look that costs up to five times
the visual tokens, whatever is asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import LlavaNextForConditionalGeneration
from transformers.models.llava_next.modeling_llava_next import unpad_image

from secondlook.edge.geometry import Size, sheet
from secondlook.edge.imaging import fit_to_view
from secondlook.edge.wire import Fixed, Tiles, View
from secondlook.engine.errors import InvalidModelError
from secondlook.engine.models.base import Features, Prompt
from secondlook.engine.models.checkpoint import Checkpoint
from secondlook.engine.models.llava import Llava, clip_config, default_localisation
from secondlook.engine.models.pictures import Grid, Picture, Preprocessing
from secondlook.engine.models.prompts import ChatPrompts
from secondlook.engine.models.settings import Localisation, LookSettings
from secondlook.engine.models.square import check_side, square_preprocessing

__all__ = ["SUPPORTED", "HighResolution", "LlavaNext", "default_localisation", "load"]

SUPPORTED = "LLaVA-NeXT (model_type llava_next) with a clip_vision_model tower and a llama or mistral decoder"

_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
"""Height and width of sheets of tiles, where a processor names none."""


def load(checkpoint: Checkpoint) -> LlavaNext:
    """The model of a folder; raises as `Checkpoint` does."""
    config = clip_config(checkpoint, SUPPORTED, ("llama", "mistral"))
    settings = checkpoint.settings()
    side, kinds = config.vision_config.image_size, ("LlavaNextImageProcessor",)
    preprocessing = square_preprocessing(checkpoint, side, kinds, size="crop_size", resample=3)
    _check_processor(checkpoint, config)
    prompts = checkpoint.prompts(config, settings.question_suffix)
    localisation = checkpoint.localisation(default_localisation(config))
    module = checkpoint.weights(LlavaNextForConditionalGeneration, config)
    return LlavaNext(checkpoint.name, module, prompts, preprocessing, settings, localisation)


class LlavaNext(Llava):
    """A `VisionLanguageModel`, see there: LLaVA-1.5 but for the filter of its pictures, and its tiles."""

    def __init__(
        self,
        name: str,
        module: LlavaNextForConditionalGeneration,
        prompts: ChatPrompts,
        preprocessing: Preprocessing,
        settings: LookSettings,
        localisation: Localisation,
    ) -> None:
        """`module` must have been loaded with the `secondlook` attention for its language model."""
        super().__init__(name, module, prompts, preprocessing, settings, localisation, "bicubic")

    def high_resolution(self) -> HighResolution:
        other = HighResolution(self.name, self.module, *self.parts)
        other.revision, other._encoder = self.revision, self._encoder
        return other


class HighResolution(LlavaNext):
    """The same model with a picture in its base view and in tiles, as transformers lays them out.

    A picture's rows are those of its base view, then those of the tiles together, line by line, without what
    is padding, each line with a row for its end. Its grid is that of the tiles.
    """

    def __init__(self, *parts: Any) -> None:
        """Arguments as `LlavaNext`."""
        super().__init__(*parts)
        sheets = tuple((width, height) for height, width in self.module.config.image_grid_pinpoints)
        view = View(size=Tiles(sheets=sheets), filter="bicubic", pad_colour=(0, 0, 0))
        self.global_view = self.local_view = view
        grids = [(height // self.cell[0], width // self.cell[1]) for width, height in sheets]
        self.most_visual_tokens = (max(self.layout(grid).shape[1] for grid in grids), 0)

    @property
    def _base(self) -> int:
        """Rows of a base view."""
        rows: int = self.module.config.vision_config.image_size // self.cell[0]
        return rows**2

    def layout(self, grid: Grid) -> Tensor:
        rows, columns = grid
        return torch.arange(self._base + rows * (columns + 1)).unsqueeze(0)

    def picture(self, image: Image.Image, view: View, original: Size) -> Picture:
        assert isinstance(view.size, Tiles), "both of its views are in tiles"
        side, area = self.preprocessing.side, sheet(view.size, original)
        base = fit_to_view(image, View(size=Fixed(width=side, height=side), filter=view.filter))
        shown = fit_to_view(image, view, original)
        whole = Image.new("RGB", (area.width, area.height), view.pad_colour)
        whole.paste(shown, ((area.width - shown.width) // 2, (area.height - shown.height) // 2))
        corners = product(range(0, area.height, side), range(0, area.width, side))
        tiles = (whole.crop((left, top, left + side, top + side)) for top, left in corners)
        pixels = np.stack([np.array(one) for one in (base, *tiles)])
        cells = torch.empty(1, area.height // self.cell[0], area.width // self.cell[1], device="meta")
        unpadded: Any = unpad_image  # untyped
        rows, columns = unpadded(cells, (original.height, original.width)).shape[1:]
        digest = hashlib.blake2b(pixels.data, digest_size=16, salt=f"{rows}x{columns}".encode()).digest()
        cost = len(pixels) * self._base
        return Picture(original, torch.from_numpy(pixels), (rows, columns), cost, digest)

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture]) -> list[Features]:
        values, model = self._normalise.values(torch.cat([one.pixels for one in pictures])), self.module.model
        features = self._encoder(values.to(self.dtype))
        tiles = torch.split(features, [len(picture.pixels) for picture in pictures])
        sizes = [(picture.shown.height, picture.shown.width) for picture in pictures]
        packed, _ = model.pack_image_features(tiles, sizes, "default", model.image_newline)
        return [Features(tokens) for tokens in packed]

    def pixel_inputs(self, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        """As transformers' processor pads them: with tiles that nobody reads. Sizes stay on the CPU."""
        most = max(len(picture.pixels) for picture in pictures)
        values = [self._normalise.values(picture.pixels).to(self.dtype) for picture in pictures]
        padded = [nn.functional.pad(one, (0, 0) * 3 + (0, most - len(one))) for one in values]
        sizes = torch.tensor([(picture.shown.height, picture.shown.width) for picture in pictures])
        return {"pixel_values": torch.stack(padded), "image_sizes": sizes}

    def attention_map(self, row: Tensor, projection: Tensor | None, prompt: Prompt) -> Tensor:
        del projection
        rows, columns = prompt.grids[0]
        return row[self._base :].reshape(rows, columns + 1)[:, :-1]


def _check_processor(checkpoint: Checkpoint, config: Any) -> None:
    folder, values, side = checkpoint.folder, checkpoint.image_processor(), config.vision_config.image_size
    check_side(folder, "size", values.get("size"), side)
    sheets, there = config.image_grid_pinpoints, values.get("image_grid_pinpoints") or _PINPOINTS
    if not sheets or not all(
        isinstance(one, list | tuple)
        and len(one) == 2
        and all(type(length) is int and length > 0 and length % side == 0 for length in one)
        for one in sheets
    ):
        raise InvalidModelError(
            f"{folder}: image_grid_pinpoints must be pairs of multiples of {side}, the vision tower's side, "
            f"not {sheets!r:.80}"
        )
    if [list(one) for one in sheets] != there:
        raise InvalidModelError(
            f"{folder}: the preprocessor's image_grid_pinpoints {there!r:.80} are not those of config.json, "
            f"{sheets!r:.80}"
        )
