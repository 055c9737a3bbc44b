"""A linear layer with weights that lie in blocks, on the CPU.

    result[b, n] = sum_k input[b, k] weight[n, k] + bias[n]

With few rows the time is that of reading the weights, so they are read once, in the order in which they lie:
[blocks, pairs, W, P], that is, blocks of W outputs, in each the inputs one after the other; in float32 P is 1
and in bfloat16 two inputs follow each other. That is how oneDNN packs weights for a processor with AVX-512
(its BA16a64b and BA16a64b2a), so that the same memory serves its products, too. With many rows a block is
multiplied with some after the others while it is in the cache. Of weights of few bits, see
`secondlook.kernels.quantised_blocks`, there is half as much to read, or a quarter.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from secondlook.kernels.operators import register
from secondlook.kernels.quantised_blocks import WIDTH, WORDS, unblock_quantised

__all__ = ["block_weights", "blocked_linear", "blocked_linear_reference"]

_PAIRS: Final = {torch.float32: 1, torch.bfloat16: 2}
_WIDTHS: Final = (16, 32, 48, 64)
_FEW_BITS: Final = {torch.int8: 1, torch.uint8: 2}
"""Inputs of a row."""


def blocked_linear(
    input: Tensor,  # noqa: A002 -- torch's name; [B, inputs]
    weight: Tensor,  # [blocks, pairs, W, P], or of few bits
    bias: Tensor | None,  # [outputs]
    outputs: int,
) -> Tensor:  # [B, outputs]
    """What a linear layer gives.

    Products are summed in float32. Deterministic: a row's result has the same bits whatever the other rows
    and the number of threads.

    Args:
        input: float32 or bfloat16, on the CPU; its last stride is 1.
        weight: of the same dtype, contiguous, as `block_weights` gives it, or with more pairs, of zeros; W is
            16, 32, 48 or 64. Or as `block_quantised` gives it: of that nothing but the result is rounded.
        bias: of the same dtype, or None.
        outputs: how many there are; what is beyond them in the last block is left out.

    Raises:
        TypeError: a dtype of `input` or `weight` that is not one of those above.
        ValueError: what else is wrong, a shape, stride or device; the message names the argument.
    """
    found: Tensor = _operator(input.detach(), weight, bias, outputs)
    return found


def block_weights(weight: Tensor, width: int = 64) -> Tensor:
    """[outputs, inputs] in blocks of `width` outputs, padded with zeros: what `blocked_linear` takes.

    Raises:
        TypeError: neither float32 nor bfloat16.
        ValueError: a wrong shape, or blocks of another width than 16, 32, 48 or 64.
    """
    if weight.dtype not in _PAIRS:
        raise TypeError(f"weight must be float32 or bfloat16, but is {weight.dtype}")
    if weight.dim() != 2 or not weight.numel():
        raise ValueError(f"weight must be [outputs, inputs], but has shape {list(weight.shape)}")
    if width not in _WIDTHS:
        raise ValueError(f"width must be 16, 32, 48 or 64, but is {width}")
    outputs, inputs = weight.shape
    pair = _PAIRS[weight.dtype]
    padded = functional.pad(weight.detach(), (0, -inputs % pair, 0, -outputs % width))
    return padded.reshape(-1, width, padded.shape[1] // pair, pair).transpose(1, 2).contiguous()


def blocked_linear_reference(
    input: Tensor,  # noqa: A002 -- torch's name
    weight: Tensor,
    bias: Tensor | None,
    outputs: int,
) -> Tensor:
    """What `blocked_linear` computes, in float64 throughout."""
    if weight.dtype in _FEW_BITS:
        rows = unblock_quantised(weight, outputs, input.shape[1]).dequantised(torch.float64)
    else:
        rows = weight.transpose(1, 2).flatten(2).flatten(0, 1)[:outputs, : input.shape[1]].double()
    found = input.double() @ rows.T
    return found if bias is None else found + bias.double()


def _rounded_reference(input: Tensor, weight: Tensor, bias: Tensor | None, outputs: int) -> Tensor:  # noqa: A002
    return blocked_linear_reference(input, weight, bias, outputs).to(input.dtype)


def _check(input: Tensor, weight: Tensor, bias: Tensor | None, outputs: int) -> None:  # noqa: A002
    if input.device.type != "cpu":
        raise ValueError(f"input must be on the CPU, but is on {input.device}")
    if input.dtype not in _PAIRS:
        raise TypeError(f"input must be float32 or bfloat16, but is {input.dtype}")
    if input.dim() != 2 or input.shape[1] < 1 or (input.shape[1] > 1 and input.stride(1) != 1):
        raise ValueError(
            f"input must be [B, inputs] and contiguous in its last dimension, but its shape is "
            f"{list(input.shape)}, its strides are {input.stride()}"
        )
    _check_blocks("weight", weight, input, outputs, input.shape[1])
    if bias is None:
        return
    if (bias.device, bias.dtype, bias.shape) != (input.device, input.dtype, (outputs,)):
        raise ValueError(
            f"bias must be [{outputs}] of {input.dtype} on the CPU, but is {list(bias.shape)} of "
            f"{bias.dtype} on {bias.device}"
        )
    if not bias.is_contiguous():
        raise ValueError(f"bias must be contiguous, but its stride is {bias.stride(0)}")


def _check_blocks(name: str, weight: Tensor, like: Tensor, outputs: int, inputs: int) -> None:
    """Refuse what are no weights in blocks of this many inputs and outputs, of the dtype of `like` or of few
    bits."""
    if weight.dtype in _FEW_BITS and weight.device == like.device:
        _check_few_bits(name, weight, outputs, inputs)
        return
    if weight.dtype != like.dtype:
        raise TypeError(f"{name} must be {like.dtype}, but is {weight.dtype}")
    if weight.device != like.device:
        raise ValueError(f"{name} must be on the CPU, but is on {weight.device}")
    pair = _PAIRS[like.dtype]
    width = weight.shape[2] if weight.dim() == 4 else 0
    if width not in _WIDTHS or not weight.is_contiguous():
        raise ValueError(
            f"{name} must be [blocks, pairs, 16, 32, 48 or 64, {pair}] and contiguous, but its shape is "
            f"{list(weight.shape)}, its strides are {weight.stride()}"
        )
    blocks, pairs, least = -(-outputs // width), weight.shape[1], -(-inputs // pair)
    if outputs < 1 or pairs < least or list(weight.shape) != [blocks, pairs, width, pair]:
        raise ValueError(
            f"{name} must be [{blocks}, {least} or more, {width}, {pair}] for {outputs} outputs of {inputs} "
            f"inputs, but is {list(weight.shape)}"
        )


def _check_few_bits(name: str, weight: Tensor, outputs: int, inputs: int) -> None:
    blocks, each = -(-outputs // WIDTH), _FEW_BITS[weight.dtype]
    groups, rows = weight.shape[1:3] if weight.dim() == 4 else (0, 0)
    held = groups * (rows - WORDS) * each
    fits = held == inputs or (each == 2 and groups == 1 and held == inputs + 1)
    if not fits or outputs < 1 or weight.shape[::3] != (blocks, WIDTH) or not weight.is_contiguous():
        raise ValueError(
            f"{name} must be [{blocks}, groups, {WORDS} + rows, {WIDTH}] and contiguous for {outputs} "
            f"outputs of {inputs} inputs, but its shape is {list(weight.shape)}, its strides are "
            f"{weight.stride()}"
        )


def _fake(input: Tensor, weight: Tensor, bias: Tensor | None, outputs: int) -> Tensor:  # noqa: A002
    _check(input, weight, bias, outputs)
    return input.new_empty((input.shape[0], outputs))


_operator: Final = register(
    "blocked_linear(Tensor input, Tensor weight, Tensor? bias, int outputs) -> Tensor",
    check=_check,
    reference=_rounded_reference,
    fake=_fake,
)
