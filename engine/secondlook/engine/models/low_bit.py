"""Linear layers of a decoder with weights of 8 or 4 bits: less memory to hold, and to read for each token.

Activations keep their type; what is rounded is weights alone. Of a language model's head, whose rounding goes
straight into the tokens' probabilities, weights keep 8 bits.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from secondlook.engine.models.packed_linear import FixedLinear
from secondlook.kernels import QuantisedWeights, quantise

__all__ = ["LowBitLinear", "quantise_linear_layers"]


class LowBitLinear(FixedLinear):
    """A linear layer with quantised weights.

    Args:
        weights: [outputs, inputs]; they stay where they are.
        bias: of `dtype`, beside them.
        dtype: float32 or bfloat16, of what stands for the layer elsewhere: in its state and in a deep copy.
    """

    def __init__(self, weights: QuantisedWeights, bias: nn.Parameter | None, dtype: torch.dtype) -> None:
        outputs, inputs = weights.values.shape
        super().__init__(inputs, outputs, bias, training=False)
        self.dtype = dtype
        self._weights = weights

    @property
    def weights(self) -> QuantisedWeights:
        """As they are multiplied with."""
        return self._weights

    def unpacked(self) -> Tensor:
        """The weights [out_features, in_features] that are computed with, rounded to the layer's dtype."""
        return self.weights.dequantised(self.dtype)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """[..., out_features] of [..., in_features], in the dtype of `input`, float32 or bfloat16."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return linear(input, self.weights.dequantised(input.dtype), bias)


@torch.inference_mode()
def quantise_linear_layers(model: Any, bits: Literal[4, 8], group: int | None = None) -> None:
    """Put a `LowBitLinear` in the place of each linear layer of a model's decoder, and of its head.

    One after another, so that no more than one layer's weights are in memory twice; but where a head's are
    those of the embeddings, these stay.

    Args:
        model: transformers', of float32 or bfloat16.
        bits: of the decoder's layers; the head has 8.
        group: see `quantise`; the head's are an output's inputs, all of them, where `bits` are 4.

    Raises:
        ValueError: the group does not divide a layer's inputs; the message names the layer.
    """
    head = model.get_output_embeddings()
    layers = {id(layer) for layer in model.get_decoder().modules()} | {id(head)}
    for name, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear or id(layer) not in layers:
            continue
        how: tuple[Literal[4, 8], int | None] = (8, None) if layer is head and bits == 4 else (bits, group)
        try:
            weights = quantise(layer.weight, *how)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        model.set_submodule(name, LowBitLinear(weights, layer.bias, layer.weight.dtype))
