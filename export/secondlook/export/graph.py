"""The exported graph, as a torch module: from pixels to the features that the language model reads.

    name          what                        shape                     dtype
    pixel_values  input, normalised pixels    [batch, 3, side, side]    the graph's; float32 for int8
    features      output, visual features     [batch, tokens, width]    the input's

`batch` is dynamic. `tokens` is the grid of patches, row-major, without the class token; `width` is the
language model's. The tower runs up to the feature layer only: no block behind it, and no final norm.

Written for other runtimes: patches are cut by a reshape and multiplied as a matrix (the convolution of opset
18 knows no bfloat16), and the query is scaled before the first product, as TensorRT fuses attention. In half
precision the norms and the softmax compute in float32, so that no sum of squares overflows in float16.
"""

from __future__ import annotations

import copy
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from secondlook.engine.models.packed_linear import PackedLinear
from secondlook.engine.models.vision import feature_blocks

__all__ = ["INPUT_NAME", "OUTPUT_NAME", "EncoderGraph"]

INPUT_NAME: Final = "pixel_values"
OUTPUT_NAME: Final = "features"

_Module = TypeVar("_Module", bound=nn.Module)


class EncoderGraph(nn.Module):
    """A LLaVA's vision tower and projector, on the same weights; copies of them where `dtype` differs
    or they are packed.

    Args:
        model: with a CLIP tower; its configuration tells the feature layer, heads and sizes.
        dtype: of products and activations, input and output.
    """

    def __init__(self, model: LlavaForConditionalGeneration, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        config: Any = model.config  # transformers declares its nested configurations as dict or None as well
        tower: Any = model.model.vision_tower
        embeddings = tower.embeddings
        self.grid: int = config.vision_config.image_size // config.vision_config.patch_size
        self.patch: int = config.vision_config.patch_size
        # [width, 3, patch, patch] as a matrix; the class token stands before the patches.
        self.patch_weight = _constant(embeddings.patch_embedding.weight.flatten(1).T, dtype)
        positions = embeddings.position_embedding.weight.float()
        class_token = embeddings.class_embedding.float() + positions[0]
        self.class_token = _constant(class_token.view(1, 1, -1), torch.float32)
        self.positions = _constant(positions[1:], torch.float32)
        self.first_norm = _in_dtype(tower.pre_layrnorm, torch.float32)
        self.blocks = nn.ModuleList(
            _Block(block, config.vision_config.num_attention_heads, dtype)
            for block in tower.encoder.layers[: feature_blocks(config)]
        )
        self.projector = _in_dtype(model.model.multi_modal_projector, dtype)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Features [batch, tokens, width] of pixels [batch, 3, side, side]."""
        batch, side = pixel_values.shape[0], self.grid * self.patch
        patches = pixel_values[:, :, :side, :side].reshape(
            batch, 3, self.grid, self.patch, self.grid, self.patch
        )
        rows = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, self.grid**2, -1)
        embedded = (rows @ self.patch_weight).float() + self.positions
        hidden = self.first_norm(torch.cat([self.class_token.expand(batch, -1, -1), embedded], 1))
        for block in self.blocks:
            hidden = block(hidden)
        features: Tensor = self.projector(hidden[:, 1:].to(pixel_values.dtype))
        return features


class _Block(nn.Module):
    """One block of the tower: [batch, 1 + tokens, hidden size] float32 to the same."""

    def __init__(self, block: Any, heads: int, dtype: torch.dtype) -> None:
        super().__init__()
        attention, mlp = block.self_attn, block.mlp
        self.heads, self.dtype = heads, dtype
        self.norm1, self.norm2 = (
            _in_dtype(norm, torch.float32) for norm in (block.layer_norm1, block.layer_norm2)
        )
        self.query, self.key, self.value, self.out, self.up, self.down = (
            _in_dtype(linear, dtype)
            for linear in (
                attention.q_proj,
                attention.k_proj,
                attention.v_proj,
                attention.out_proj,
                mlp.fc1,
                mlp.fc2,
            )
        )
        self.activation = mlp.activation_fn

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.out(self._attend(self.norm1(hidden).to(self.dtype))).float()
        inner = self.activation(self.up(self.norm2(hidden).to(self.dtype)))
        output: Tensor = hidden + self.down(inner).float()
        return output

    def _attend(self, hidden: Tensor) -> Tensor:
        batch, tokens, size = hidden.shape
        width = size // self.heads
        query, key, value = (
            linear(hidden).view(batch, tokens, self.heads, width).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        scores = (query * width**-0.5) @ key.transpose(2, 3)
        weights = scores.float().softmax(-1).to(hidden.dtype)
        output: Tensor = (weights @ value).transpose(1, 2).reshape(batch, tokens, size)
        return output


def _in_dtype(module: _Module, dtype: torch.dtype) -> _Module:
    """The module itself where it has the dtype and its weights are not packed, else a copy."""
    plain = not any(isinstance(part, PackedLinear) for part in module.modules())
    same = plain and all(parameter.dtype == dtype for parameter in module.parameters())
    return module if same else copy.deepcopy(module).to(dtype)


def _constant(tensor: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(tensor.detach().to(dtype).contiguous(), requires_grad=False)
