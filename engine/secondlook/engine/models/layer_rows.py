"""What the operators of `secondlook.kernels` for many rows take of a model's layers, and where they serve.

They multiply with weights in blocks, of the dtype of the rows. A layer of which another operator multiplies
one product faster (`packing`) is computed module after module.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secondlook.engine.models.fixed_linear import FixedLinear
from secondlook.kernels import ACTIVATIONS, encoder_layers

__all__ = ["EncoderLayer", "activation_of", "encoded", "serve", "with_bias"]


def activation_of(activation: Any) -> str | None:
    """The name in `secondlook.kernels.ACTIVATIONS` of what computes the same, and has no parameters."""
    if activation is None or any(True for _ in getattr(activation, "parameters", list)()):
        return None
    values = torch.linspace(-4, 4, 64, device="cpu")
    found = activation(values).double()
    for name, ours in ACTIVATIONS.items():
        if torch.allclose(found, ours(values.double()), atol=1e-5):
            return name
    return None


def serve(rows: Tensor, linears: Iterable[Any]) -> bool:
    """Whether the operators multiply rows [..., D] with all of these layers."""
    return rows.numel() > 0 and all(
        isinstance(one, FixedLinear) and one.fused and getattr(one.blocks, "dtype", None) == rows.dtype
        for one in linears
    )


def with_bias(linear: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's weights and its bias as the operators take them: one that there is not has no elements."""
    return linear.blocks, like[:0] if linear.bias is None else linear.bias.detach()


class EncoderLayer(NamedTuple):
    """The modules of a vision encoder's layer, as CLIP's (Radford et al., arXiv 2103.00020)."""

    norm: nn.LayerNorm
    query: nn.Module
    key: nn.Module
    value: nn.Module
    output: nn.Module
    second_norm: nn.LayerNorm
    up: nn.Module
    down: nn.Module


def encoded(
    hidden: Tensor, layers: Sequence[EncoderLayer], heads: int, activation: str | None
) -> Tensor | None:
    """What a vision encoder's layers make of rows [n, L, D]; None where modules must compute that.

    Args:
        activation: what `activation_of` tells of theirs.
    """
    linears = [one for layer in layers for one in layer if not isinstance(one, nn.LayerNorm)]
    norms = [one for layer in layers for one in (layer.norm, layer.second_norm)]
    if activation is None or not norms or not serve(hidden, linears):
        return None
    epsilon = norms[0].eps
    if any((one.eps, one.weight.dtype) != (epsilon, hidden.dtype) or one.bias is None for one in norms):
        return None
    weights = list[Tensor]()
    for norm, query, key, value, output, second_norm, up, down in layers:
        absent = norm.weight[:0]
        weights += (norm.weight, norm.bias)
        weights += (part for one in (query, key, value, output) for part in with_bias(one, absent))
        weights += (second_norm.weight, second_norm.bias, absent, absent)
        weights += (part for one in (up, down) for part in with_bias(one, absent))
    last: Any = linears[-1]
    inner, scale = int(last.in_features), (hidden.shape[-1] // heads) ** -0.5
    return encoder_layers(hidden.contiguous(), weights, heads, inner, scale, epsilon, activation)
