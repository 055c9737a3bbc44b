"""A small architecture unlike any other: what `VisionLanguageModel` asks for, and nothing more.

Its pictures have the shape of their originals, its positions are three (time, row, column), and before each
picture's cells stands a row that depends on the question, so that a prefix belongs to one question.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from secondlook.edge.geometry import Size
from secondlook.edge.wire import Budget, View
from secondlook.engine.decode.cache import DecoderShape
from secondlook.engine.decode.plans import AttentionPlan, Rows
from secondlook.engine.models.base import Features, Prompt, QuestionTokens, VisionLanguageModel
from secondlook.engine.models.pictures import Grid, Picture, Preprocessing, fitted
from secondlook.engine.models.settings import Localisation, LookSettings

CELL, WIDTH, WORDS, LAYERS = 8, 24, 64, 2


class ToyModel(VisionLanguageModel):
    name, module, device, dtype = "toy", nn.Identity(), torch.device("cpu"), torch.float32
    decoder = DecoderShape(layers=LAYERS, heads=2, kv_heads=1, head_width=WIDTH // 2, width=WIDTH)
    context, eos_ids, most_visual_tokens = 256, frozenset({0}), (25, 13)
    global_view = View(size=Budget(multiple=CELL, least_pixels=6 * CELL**2, most_pixels=24 * CELL**2))
    local_view = View(size=Budget(multiple=CELL, least_pixels=6 * CELL**2, most_pixels=12 * CELL**2))
    preprocessing = Preprocessing(CELL, (0.0,) * 3, (1.0,) * 3)
    settings, localisation = LookSettings(max_new_tokens=9), Localisation(layer=1, crop_size=40)

    def __init__(self, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.table, self.see = torch.randn(WORDS, WIDTH, generator=g), nn.AvgPool2d(CELL)
        self.colours, self.head = torch.randn(3, WIDTH, generator=g), torch.randn(WIDTH, WORDS, generator=g)
        self.weights = [torch.randn(WIDTH, 3 * WIDTH, generator=g) / WIDTH**0.5 for _ in range(LAYERS)]

    def picture(self, image: Image.Image, view: View, original: Size) -> Picture:
        return fitted(image, view, original, (CELL, CELL))

    def encode(self, pictures: Sequence[Picture]) -> list[Features]:
        cells = [self.see(one.pixels.permute(2, 0, 1)[None] / 255.0)[0].flatten(1).T for one in pictures]
        return [Features(cell @ self.colours) for cell in cells]

    def condition(self, features: Features, question: QuestionTokens) -> tuple[Features, Tensor]:
        told = self.table[sum(question.text.encode()) % WORDS][None]
        rows, cells = len(features.tokens) + 1, len(features.tokens)
        return Features(torch.cat((told, features.tokens))), torch.eye(rows)[:, rows - cells :]

    def tokens(self, question: str) -> QuestionTokens:
        letters = tuple(2 + byte % (WORDS - 2) for byte in question.encode())
        return QuestionTokens(question, (1, *letters), (1, 1, *letters))

    def prompt(self, question: QuestionTokens, grids: Sequence[Grid]) -> Prompt:
        ids, spans, positions, at = [], [], [], 0
        for rows, columns in grids:
            spans.append((len(ids), len(ids) + 1 + rows * columns))
            ids += [1] * (1 + rows * columns)
            cells = [(at, at + row, at + column) for row in range(rows) for column in range(columns)]
            positions += [(at, at, at), *cells]
            at += max(rows, columns)
        letters = question.one[1:]
        positions += [(at + number,) * 3 for number in range(len(letters))]
        ids, at = [*ids, *letters], at + len(letters)
        return Prompt(tuple(ids), tuple(spans), tuple(grids), spans[0][1], torch.tensor(positions).T, at)

    def prefix_key(self, picture: Picture, question: QuestionTokens) -> Hashable:
        return picture.digest, question.text

    def rows(self, prompt: Prompt, start: int, features: Sequence[Features]) -> Rows:
        embeddings = self.embed(torch.tensor(prompt.ids))
        for span, one in zip([span for span in prompt.spans if span[0] >= start], features, strict=True):
            embeddings[slice(*span)] = one.tokens
        return Rows(embeddings[start:], prompt.positions[:, start:])

    def embed(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]

    def step_positions(self, lengths: Tensor, deltas: Tensor) -> Tensor:
        return (lengths + deltas).expand(3, -1)

    def hidden(self, rows: Rows, plan: AttentionPlan | Any) -> Tensor:
        states = rows.embeddings
        turn = torch.cat([rows.positions.T / 10.0**k for k in range(2)], dim=1)  # [R, 6]: half a head
        for layer, weights in enumerate(self.weights):
            q, k, v = (states / states.norm(dim=1, keepdim=True) * 4 @ weights).split(WIDTH, dim=1)
            q, k, v = ((x.unflatten(1, (2, -1)).transpose(0, 1)) for x in (q, k, v))  # [2, R, WIDTH / 2]
            seen = plan.attend(layer, turned(q, turn)[None], turned(k, turn)[None, :1], v[None, :1], 0.5)
            states = states + seen[0].flatten(1)
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.head

    def text(self, token_ids: Sequence[int]) -> str:
        return " ".join(map(str, token_ids))

    def vision_module(self) -> nn.Module:
        return self.see

    def digest(self) -> str:
        return "toy"

    def encoder_digest(self, dtype: torch.dtype | None = None) -> str:
        return f"toy {dtype}"


def turned(heads: Tensor, angles: Tensor) -> Tensor:
    """Rotary: halves of each head [H, R, D], turned by angles [R, D / 2]."""
    one, other = heads.chunk(2, dim=-1)
    return torch.cat(
        (one * angles.cos() - other * angles.sin(), one * angles.sin() + other * angles.cos()), -1
    )
