"""A linear layer with weights of few bits, on CUDA; the CPU's is `blocked_linear`.

    result[b, n] = sum_k input[b, k] (values[n, k] - zeros[n, g]) scales[n, g] + bias[n],  g the group of k

With few rows the time is that of reading the weights, so they are read as they are kept: an output's values
one after the other, with a word for each group (`scale_words`). Many rows are multiplied by weights of the
input's dtype, which are written first.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import linear

from secondlook.kernels.operators import register
from secondlook.kernels.quantised import QuantisedWeights, scale_words, scales_and_zeros

__all__ = [
    "pack_quantised",
    "quantised_linear",
    "quantised_linear_reference",
    "unpack_quantised",
]

_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
_FLOAT8: Final = torch.float8_e4m3fn
_VALUES: Final = {torch.uint8: 2, torch.int8: 1, _FLOAT8: 1}
"""Values of an element."""
_PIECE: Final = 8
_LEAST_GROUP: Final = 16
_MOST_INPUTS: Final = 2**19 - 1
_BACKEND = "cuda"
"""Where the kernels are; "cpu" where they are emulated."""


def quantised_linear(
    input: Tensor,  # noqa: A002 -- torch's name; [B, inputs]
    values: Tensor,  # [outputs, inputs], of 4 bits [outputs, inputs / 2]
    scales: Tensor,  # [outputs, groups]
    bias: Tensor | None,  # [outputs]
) -> Tensor:  # [B, outputs]
    """What a linear layer gives, with weights that `pack_quantised` made.

    Up to 16 rows are multiplied by weights in float32, and their products summed in float32; there a row's
    result has the same bits whatever the other rows. More are multiplied by PyTorch, by weights that were
    rounded to the input's dtype. Nothing waits for the GPU, and a captured graph may hold it.

    Args:
        input: float32, float16 or bfloat16, on CUDA; its last stride is 1. Rows that start at multiples of 16
            bytes are not copied.
        values: uint8 of 4 bits, int8 or float8_e4m3fn, contiguous.
        scales: int32, contiguous; groups are of 16 inputs or more, a multiple of 8.
        bias: of the dtype of input, contiguous, or None.

    Raises:
        TypeError: a dtype that is not one of those above.
        ValueError: what else is wrong, a shape, stride or device; the message names the argument.
    """
    found: Tensor = _operator(input.detach(), values, scales, bias)
    return found


def pack_quantised(weights: QuantisedWeights) -> tuple[Tensor, Tensor]:
    """Values and scales as `quantised_linear` takes them.

    Of 4 bits two inputs share a byte, the first in its lower half. Scales are rounded to 16 bits of
    significand, to which all are exact that were float16 or bfloat16 once.

    Raises:
        ValueError: groups that are no multiple of 8 or of fewer than 16 inputs, zeros that are not whole
            numbers from -128 to 127, or what is not finite.
    """
    inputs, group = weights.values.shape[1], weights.group
    if group % _PIECE or group < _LEAST_GROUP or inputs > _MOST_INPUTS:
        raise ValueError(
            f"groups must be of {_LEAST_GROUP} inputs or more, a multiple of {_PIECE}, and inputs at most "
            f"{_MOST_INPUTS}, but they are groups of {group} of {inputs} inputs"
        )
    values = weights.values.contiguous()
    if values.dtype == _FLOAT8 and bool((values.view(torch.uint8) & 127 == 127).any()):
        raise ValueError("a value is NaN")
    if weights.bits == 4:
        nibbles = values.view(torch.uint8) & 15
        values = nibbles[:, ::2] | nibbles[:, 1::2] << 4
    return values, scale_words(weights)


def unpack_quantised(values: Tensor, scales: Tensor) -> QuantisedWeights:
    """The weights again that `pack_quantised` packed, but for the rounding of their scales."""
    floats, zeros = scales_and_zeros(scales)
    if values.dtype != torch.uint8:
        return QuantisedWeights(values, floats, None if values.dtype == _FLOAT8 else zeros, 8)
    nibbles = torch.stack([values & 15, values >> 4], dim=-1).flatten(1)
    return QuantisedWeights((nibbles ^ 8).view(torch.int8) - 8, floats, zeros, 4)


def quantised_linear_reference(
    input: Tensor,  # noqa: A002 -- torch's name
    values: Tensor,
    scales: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """What `quantised_linear` computes, in float64 throughout."""
    weight = unpack_quantised(values, scales).dequantised(torch.float64)
    return linear(input.double(), weight, None if bias is None else bias.double())


def _rounded_reference(input: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
    return quantised_linear_reference(input, values, scales, bias).to(input.dtype)


def _check(input: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None) -> None:  # noqa: A002
    if input.device.type != _BACKEND:
        raise ValueError(f"input must be on CUDA, but is on {input.device}; the CPU has blocked_linear")
    if input.dtype not in _DTYPES:
        raise TypeError(f"input must be float32, float16 or bfloat16, but is {input.dtype}")
    if values.dtype not in _VALUES:
        raise TypeError(f"values must be uint8, int8 or float8_e4m3fn, but is {values.dtype}")
    if scales.dtype != torch.int32:
        raise TypeError(f"scales must be torch.int32, but is {scales.dtype}")
    if input.dim() != 2 or (input.shape[1] > 1 and input.stride(1) != 1):
        raise ValueError(
            f"input must be [B, inputs] and contiguous in its last dimension, but its shape is "
            f"{list(input.shape)}, its strides are {input.stride()}"
        )
    inputs, outputs = input.shape[1], values.shape[0] if values.dim() else 0
    if outputs < 1 or list(values.shape) != [outputs, inputs // _VALUES[values.dtype]]:
        raise ValueError(
            f"values must be [outputs, {inputs // _VALUES[values.dtype]}], but has shape {list(values.shape)}"
        )
    groups = scales.shape[1] if scales.dim() == 2 else 0
    fits = groups and not inputs % (groups * _PIECE) and inputs // groups >= _LEAST_GROUP
    if not fits or inputs > _MOST_INPUTS or scales.shape[0] != outputs:
        raise ValueError(
            f"scales must be [{outputs}, groups], of groups of {_LEAST_GROUP} inputs or more, a multiple of "
            f"{_PIECE}, at most {_MOST_INPUTS} in all, but is {list(scales.shape)} for {inputs} inputs"
        )
    if bias is not None:
        if bias.dtype != input.dtype:
            raise TypeError(f"bias must have the dtype of input, {input.dtype}, but is {bias.dtype}")
        if bias.shape != (outputs,):
            raise ValueError(f"bias must be [{outputs}], but has shape {list(bias.shape)}")
    for name, tensor in (("values", values), ("scales", scales), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.device != input.device:
            raise ValueError(f"{name} must be on {input.device} as input is, but is on {tensor.device}")
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, but its strides are {tensor.stride()}")


def _fake(input: Tensor, values: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
    _check(input, values, scales, bias)
    return input.new_empty((input.shape[0], values.shape[0]))


_operator: Final = register(
    "quantised_linear(Tensor input, Tensor values, Tensor scales, Tensor? bias) -> Tensor",
    check=_check,
    reference=_rounded_reference,
    fake=_fake,
)
