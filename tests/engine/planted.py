"""A toy model whose heads are known: asked a question, one of them looks at what is red, and all others at
what is blue; told to write a description, at nothing more than at all else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engine.toy_model import CELL, WIDTH, ToyModel
from secondlook.edge.geometry import Rectangle, Size
from secondlook.engine.models.base import Features
from secondlook.engine.models.pictures import Picture

PLANTED = (1, 0)
"""Layer and head."""
QUESTION = "Where is the red thing?"
ROWS, COLUMNS, SCALE = 4, 6, 8
ORIGINAL = Size(COLUMNS * CELL * SCALE, ROWS * CELL * SCALE)

_STRENGTH = 4.0
_SLOW, _OTHER = 7, 6
"""Of a head's 16 numbers those that rotary positions turn least."""


class PlantedModel(ToyModel):
    def __init__(self) -> None:
        super().__init__()
        asked = self.embed(torch.tensor([ord("?") - 30, ord(".") - 30]))
        known = torch.cat((self.colours[[0, 2]], asked))
        red, blue, question, _ = torch.linalg.pinv(_normal(known)).T  # each meets its own alone
        first, second = (layer.self_attn for layer in self.module.model.language_model.layers)
        for layer in self.module.model.language_model.layers:
            layer.input_layernorm.weight.data.fill_(1)
            for part in (
                layer.self_attn.o_proj,
                layer.mlp.down_proj,
            ):  # what a layer attends to changes nothing
                part.weight.data.zero_()
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                part.weight.data.zero_()
                part.bias.data.zero_()
        for attention, head, number, seen in (
            (first, 0, _SLOW, blue),
            (first, 1, _SLOW, blue),
            (second, PLANTED[1], _SLOW, red),
            (second, 1 - PLANTED[1], _OTHER, 4 * blue),  # so that the two together look at what is blue
        ):
            attention.k_proj.weight.data[number] = _STRENGTH * seen
            attention.q_proj.weight.data[16 * head + number] = _STRENGTH * question

    def encode(self, pictures: Sequence[Picture]) -> list[Features]:
        cells = [self.see((one.pixels > 100).float().permute(2, 0, 1)).flatten(1).T for one in pictures]
        return [Features(cell @ self.colours) for cell in cells]


def _normal(rows: Tensor) -> Tensor:
    """As the layers' norm makes them."""
    return rows / rows.norm(dim=1, keepdim=True) * WIDTH**0.5


def painted(seed: int) -> tuple[Image.Image, Rectangle]:
    """An original with a red and a blue cell, and where the red one is."""
    places = np.random.default_rng(seed).permutation(ROWS * COLUMNS)[:2]
    pixels = np.zeros((ROWS, COLUMNS, 3), np.uint8)
    (red, blue), columns = np.divmod(places, COLUMNS)
    pixels[red, columns[0], 0] = pixels[blue, columns[1], 2] = 255
    size = CELL * SCALE
    box = (columns[0] * size, red * size, (columns[0] + 1) * size, (red + 1) * size)
    image = Image.fromarray(pixels).resize((ORIGINAL.width, ORIGINAL.height), Image.Resampling.NEAREST)
    return image, Rectangle(*map(float, box))
