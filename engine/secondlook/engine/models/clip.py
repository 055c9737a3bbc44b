"""CLIP's vision tower and a projector: from pixels to the features that a language model reads.

The one forward of both: the engine runs it, `secondlook.export` writes it as a graph, benchmarks measure it.
The tower runs up to the feature layer only: no block behind it, and no final norm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secondlook.engine.models.attention import graph_attention
from secondlook.engine.models.layer_rows import EncoderLayer, activation_of, encoded
from secondlook.kernels import attention, has_kernels, quick_gelu

__all__ = ["ClipVision"]


class ClipVision(nn.Module):
    """Features [n, N, D] of normalised pixels [n, 3, S, S]; row-major patches, without the class token.

    Made of the model's own modules and tensors. Where no operator of `secondlook.kernels` serves, its results
    on eager torch have the bits of transformers' own forward. While torch exports it, two places are written
    for other runtimes: patches are cut by a reshape and multiplied as a matrix (the convolution of opset 18
    knows no bfloat16), and attention is `graph_attention`.

    Linear layers may be of a narrower dtype than norms, positions and what is summed up between the blocks.
    """

    def __init__(self, tower: Any, projector: nn.Module, blocks: int) -> None:
        """
        Args:
            tower: transformers' CLIPVisionModel.
            blocks: how many of its blocks are run.
        """
        super().__init__()
        vision = tower.config
        self.patch: int = vision.patch_size
        self.grid: int = vision.image_size // vision.patch_size
        kernel = tower.embeddings.patch_embedding.weight
        with torch.device("meta"):
            self.patches = nn.Linear(kernel[0].numel(), len(kernel), bias=False)
        self.patches.weight = nn.Parameter(kernel.detach().flatten(1), requires_grad=False)  # not a copy
        self.class_token = tower.embeddings.class_embedding
        self.positions = tower.embeddings.position_embedding.weight
        self.first_norm = tower.pre_layrnorm
        self.blocks = nn.ModuleList(
            _Block(block, vision.num_attention_heads) for block in tower.encoder.layers[:blocks]
        )
        self.projector = projector

    def forward(self, pixel_values: Tensor) -> Tensor:
        token = self.class_token.expand(pixel_values.shape[0], 1, -1)
        hidden = torch.cat([token, self._embedded(pixel_values).to(token.dtype)], 1) + self.positions
        hidden = self.first_norm(hidden)
        features: Tensor = self.projector(self._encoded(hidden)[:, 1:])
        return features

    def _encoded(self, hidden: Tensor) -> Tensor:
        """What the blocks make of rows [n, 1 + N, width]."""
        if not torch.compiler.is_exporting() and has_kernels(hidden):
            blocks: list[Any] = list(self.blocks)
            layers = [block.parts() for block in blocks]
            found = encoded(hidden, layers, blocks[0].heads, blocks[0].activation) if blocks else None
            if found is not None:
                return found
        for block in self.blocks:
            hidden = block(hidden)
        return hidden

    def _embedded(self, pixel_values: Tensor) -> Tensor:
        """The patches [n, N, width], which leave out a rim that holds no whole one."""
        if not torch.compiler.is_exporting():
            kernel = self.patches.weight.view(-1, 3, self.patch, self.patch)
            return functional.conv2d(pixel_values, kernel, stride=self.patch).flatten(2).transpose(1, 2)
        count, side = pixel_values.shape[0], self.grid * self.patch
        cut = pixel_values[:, :, :side, :side].reshape(count, 3, self.grid, self.patch, self.grid, self.patch)
        rows: Tensor = self.patches(cut.permute(0, 2, 4, 1, 3, 5).reshape(count, self.grid**2, -1))
        return rows


class _Block(nn.Module):
    """One block of the tower: [n, 1 + N, width] to the same."""

    def __init__(self, block: Any, heads: int) -> None:
        super().__init__()
        own = block.self_attn
        self.heads = heads
        self.norm1, self.norm2, self.mlp = block.layer_norm1, block.layer_norm2, block.mlp
        self.query, self.key, self.value = own.q_proj, own.k_proj, own.v_proj
        self.out = own.out_proj
        self.activation = activation_of(self.mlp.activation_fn)

    def parts(self) -> EncoderLayer:
        attention = self.query, self.key, self.value, self.out
        return EncoderLayer(self.norm1, *attention, self.norm2, self.mlp.fc1, self.mlp.fc2)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self._attended(self.norm1(hidden)).to(hidden.dtype)
        output: Tensor = hidden + self._transformed(self.norm2(hidden)).to(hidden.dtype)
        return output

    def _transformed(self, hidden: Tensor) -> Tensor:
        wide: Tensor = self.mlp.fc1(hidden)
        if self.activation == "quick_gelu" and not torch.compiler.is_exporting() and has_kernels(wide):
            wide = quick_gelu(wide)
        else:
            wide = self.mlp.activation_fn(wide)
        output: Tensor = self.mlp.fc2(wide)
        return output

    def _attended(self, hidden: Tensor) -> Tensor:
        count, tokens, size = hidden.shape
        width = size // self.heads
        query, key, value = (
            linear(hidden).view(count, tokens, self.heads, width).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        scale = width**-0.5
        if torch.compiler.is_exporting():
            found = graph_attention(query, key, value, scale)[0].transpose(1, 2)
        elif has_kernels(query):
            found = attention(query, key, value, scale, False)
        else:
            found = functional.scaled_dot_product_attention(query, key, value, scale=scale).transpose(1, 2)
        output: Tensor = self.out(found.reshape(count, tokens, size))
        return output
