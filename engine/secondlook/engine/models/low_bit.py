"""Linear layers of a decoder with weights of 8 or 4 bits: less memory to hold, and to read for each token.

Activations keep their type; what is rounded is weights alone, unless activations of many rows are to be, too.
Of a language model's head, whose rounding goes straight into the tokens' probabilities, weights keep 8 bits.
"""

from __future__ import annotations

import threading
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from secondlook.engine.models.fixed_linear import FixedLinear
from secondlook.engine.models.packed_linear import PackedLinear, can_pack
from secondlook.kernels import (
    QuantisedWeights,
    block_quantised,
    dequantise_blocks,
    dynamic_linear,
    pack_quantised,
    quantise,
    quantise_float8,
    quantised_linear,
    unblock_bytes,
    unblock_quantised,
    unpack_quantised,
)
from secondlook.kernels.library import uses_reference

__all__ = ["LowBitLinear", "Scratch", "quantise_linear_layers"]

_FEW: Final = 16
"""Rows up to which it takes longer to write all weights as floats than to multiply with them as they are,
some rows after the others; and up to which none are rounded."""
_DTYPES: Final = (torch.float32, torch.bfloat16)
Shape: TypeAlias = tuple[int, int, torch.dtype]


class LowBitLinear(FixedLinear):
    """A linear layer with quantised weights.

    On a CPU with compiled operators they lie in blocks: a few rows are multiplied with them as they are, and
    for more they are written as floats before each product, into memory that layers of one shape share.
    On CUDA one operator does both (untested on hardware). Elsewhere PyTorch computes from them what a plain
    layer has.

    With `dynamic` many rows are rounded to 8 bits, too, and multiplied as whole numbers, which takes about
    half the time; a few are not, whose time is that of reading weights.

    Args:
        weights: [outputs, inputs]; they stay on their device.
        bias: of `dtype`, beside them.
        dtype: of what stands for the layer elsewhere: in its state and in a deep copy. On a CPU float32 or
            bfloat16.
        scratch: a model's; by default the layer's own.
        dynamic: on a CPU that multiplies whole numbers, see `multiplies_bytes`.

    Raises:
        ValueError: weights that cannot lie so, see `block_quantised` and `pack_quantised`; or with `dynamic`
            others than on a CPU, of 8 bits, with a scale and no zero for each output.
    """

    def __init__(
        self,
        weights: QuantisedWeights,
        bias: nn.Parameter | None,
        dtype: torch.dtype,
        scratch: Scratch | None = None,
        *,
        dynamic: bool = False,
    ) -> None:
        outputs, inputs = weights.values.shape
        super().__init__(inputs, outputs, bias, training=False)
        self.dtype = dtype
        self._scratch = Scratch() if scratch is None else scratch
        device = weights.values.device
        served = device.type == "cpu" and weights.values.dtype == torch.int8 and not uses_reference(device)
        self.blocks = block_quantised(weights) if served else None
        self.few = 0 if self.blocks is None else _FEW
        self._scales: Tensor | None = None  # where many rows are rounded, too
        if dynamic:
            symmetric = weights.bits == 8 and weights.zeros is None
            if device.type != "cpu" or not symmetric or weights.group != inputs:
                raise ValueError("dynamic goes with weights of 8 bits on a CPU, one scale for each output")
            self._scales = weights.scales.flatten()
        self._packed = pack_quantised(weights) if device.type == "cuda" else None
        self._weights = weights if self.blocks is None and self._packed is None else None

    @property
    def weights(self) -> QuantisedWeights:
        """As they are multiplied with."""
        if self._weights is not None:
            return self._weights
        if self._packed is not None:
            return unpack_quantised(*self._packed)
        assert self.blocks is not None, "one of the three is held"
        return unblock_quantised(self.blocks, self.out_features, self.in_features)

    @property
    def nbytes(self) -> int:
        """Of what is read when a row is multiplied, without the bias."""
        if self.blocks is not None:
            return self.blocks.nbytes
        if self._packed is not None:
            return sum(part.nbytes for part in self._packed)
        held = self.weights
        zeros = 0 if held.zeros is None else held.zeros.nbytes
        return held.values.nbytes + held.scales.nbytes + zeros

    def unpacked(self) -> Tensor:
        """The weights [out_features, in_features] that are computed with, rounded to the layer's dtype."""
        return self.weights.dequantised(self.dtype)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """[..., out_features] of [..., in_features], in the dtype of `input`: float32 or bfloat16, or on CUDA
        float16."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        count = input.numel() // self.in_features
        if (packed := self._packed) is not None:
            return self.over_rows(input, lambda rows: quantised_linear(rows, *packed, bias))
        if (scales := self._scales) is not None and count > _FEW and input.dtype in _DTYPES:
            return self.over_rows(input, lambda rows: dynamic_linear(rows, self._values(), scales, bias))
        if self.blocks is None or input.dtype not in _DTYPES:
            return linear(input, self.weights.dequantised(input.dtype), bias)
        if 0 < count <= self.few:
            return self.of_few(input, bias)
        written = self._scratch.of((self.in_features, self.out_features, input.dtype))
        if written is None:
            return linear(input, self.weights.dequantised(input.dtype), bias)
        assert written.blocks is not None, "only such are kept"
        dequantise_blocks(self.blocks, self.in_features, written.blocks)
        return written.multiplied(input, bias)

    def _values(self) -> Tensor:
        """Weights int8 [inputs, outputs] of 8 bits, in memory that others write as well."""
        if self.blocks is None:
            return self.weights.values.T.contiguous()
        held = self._scratch.bytes_of(self.in_features, self.out_features)
        unblock_bytes(self.blocks, held)
        return held


class Scratch(threading.local):
    """Packed layers that have the weights of one after the other, for each thread, by shape and dtype."""

    def __init__(self) -> None:
        self._held: dict[Shape, PackedLinear | None] = {}
        self._bytes = torch.empty(0, dtype=torch.int8)

    def bytes_of(self, inputs: int, outputs: int) -> Tensor:
        """int8 [inputs, outputs]; the same memory for all."""
        if self._bytes.numel() < inputs * outputs:
            with torch.inference_mode(False):
                self._bytes = torch.empty(inputs * outputs, dtype=torch.int8)
        return self._bytes[: inputs * outputs].view(inputs, outputs)

    def of(self, shape: Shape) -> PackedLinear | None:
        """None where nothing is packed here, or not in blocks that can be written."""
        if shape not in self._held:
            with torch.inference_mode(False), torch.no_grad():  # it may be written in any mode
                self._held[shape] = self._made(shape)
        return self._held[shape]

    @staticmethod
    def _made(shape: Shape) -> PackedLinear | None:
        inputs, outputs, dtype = shape
        plain = nn.Linear(inputs, outputs, bias=False, dtype=dtype).requires_grad_(False)
        packed = PackedLinear(plain) if can_pack(plain) else None
        return None if packed is None or packed.blocks is None else packed


@torch.inference_mode()
def quantise_linear_layers(
    model: Any,
    bits: Literal[4, 8],
    group: int | None = None,
    *,
    floats: bool = False,
    dynamic: bool = False,
) -> None:
    """Put a `LowBitLinear` in the place of each linear layer of a model's decoder, and of its head.

    One after another, so that no more than one layer's weights are in memory twice; but where a head's are
    those of the embeddings, these stay.

    Args:
        model: transformers', of float32 or bfloat16, on CUDA or of float16.
        bits: of the decoder's layers; the head has 8.
        group: see `quantise`; the head's are an output's inputs, all of them, where `bits` are 4.
        floats: floats of 8 bits, see `quantise_float8`.
        dynamic: see `LowBitLinear`.

    Raises:
        ValueError: the group does not divide a layer's inputs, or weights do not go with `dynamic`; the
            message names the layer.
    """
    head, scratch = model.get_output_embeddings(), Scratch()
    layers = {id(layer) for layer in model.get_decoder().modules()} | {id(head)}
    for name, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear or id(layer) not in layers:
            continue
        how: tuple[Literal[4, 8], int | None] = (8, None) if layer is head and bits == 4 else (bits, group)
        try:
            weights = quantise_float8(layer.weight) if floats else quantise(layer.weight, *how)
            few = LowBitLinear(weights, layer.bias, layer.weight.dtype, scratch, dynamic=dynamic)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        model.set_submodule(name, few)
