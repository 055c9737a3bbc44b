"""Weights of few bits as the CPU multiplies them: in blocks of 64 outputs, in the order of reading.

[blocks, groups, 4 + rows, 64] bytes. Of a group the first four rows are a word for each output, see
`scale_words`. Behind them is

    of 8 bits, int8, a row for each input, of 16 words: word i holds the values + 128 of the outputs i,
    16 + i, 32 + i and 48 + i, from its lowest bits on;
    of 4 bits, uint8, a row for each two inputs, of 16 words: word i holds the values + 8 of these outputs,
    of the first input and then of the second.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from secondlook.kernels.quantised import QuantisedWeights, scale_words, scales_and_zeros

__all__ = ["block_quantised", "unblock_quantised"]

WIDTH: Final = 64
WORDS: Final = 4
"""Rows of a group before its values."""
_LANES: Final = 16


def block_quantised(weights: QuantisedWeights) -> Tensor:
    """[blocks, groups, 4 + rows, 64], int8 of 8 bits and uint8 of 4, with what pads the last block.

    Scales are rounded to 16 bits of significand, to which all are exact that were float16 or bfloat16 once.

    Raises:
        ValueError: values that are floats, zeros that are not whole numbers from -128 to 127, scales that are
            not finite, or several groups of an odd number of inputs with 4 bits.
    """
    outputs, groups = weights.scales.shape
    if weights.values.dtype != torch.int8:
        raise ValueError(f"values must be int8, but are {weights.values.dtype}")
    words = scale_words(weights)
    if weights.bits == 4 and weights.group % 2 and groups > 1:
        raise ValueError(f"groups must be of an even number of inputs, but are of {weights.group}")
    rest = -outputs % WIDTH
    in_blocks = pad(words, (0, 0, 0, rest)).view(-1, WIDTH, groups).transpose(1, 2).contiguous()
    scales = in_blocks.view(torch.uint8).view(-1, groups, WORDS, WIDTH)
    values = _bytes(weights.values, rest) if weights.bits == 8 else _nibbles(weights.values, rest)
    blocks = torch.cat([scales, values.reshape(len(scales), groups, -1, WIDTH)], dim=2)
    return blocks.view(torch.int8) if weights.bits == 8 else blocks


def _bytes(values: Tensor, rest: int) -> Tensor:
    """[blocks, inputs, 64]."""
    raised = pad(values.view(torch.uint8) ^ 0x80, (0, 0, 0, rest))
    apart = raised.view(-1, WIDTH // _LANES, _LANES, values.shape[1])
    return apart.permute(0, 3, 2, 1).flatten(2)


def _nibbles(values: Tensor, rest: int) -> Tensor:
    """[blocks, inputs / 2, 64]."""
    raised = pad((values + 8).view(torch.uint8), (0, values.shape[1] % 2, 0, rest))
    apart = raised.view(-1, WIDTH // _LANES, _LANES, raised.shape[1] // 2, 2)
    pairs = apart.permute(0, 3, 2, 4, 1)  # [blocks, pairs, lanes, 2, 4]
    return (pairs[..., 0::2] | pairs[..., 1::2] << 4).flatten(2)


def unblock_quantised(blocks: Tensor, outputs: int, inputs: int) -> QuantisedWeights:
    """The weights again, which blocks were made of, but for the rounding of their scales.

    Args:
        blocks: as `block_quantised` gives them, of so many outputs and inputs.
    """
    held = blocks.view(torch.uint8)
    in_blocks = held[:, :, :WORDS].flatten(2).contiguous().view(torch.int32)
    words = in_blocks.transpose(1, 2).flatten(0, 1)[:outputs].contiguous()
    scales, zeros = scales_and_zeros(words)
    rows = held[:, :, WORDS:].flatten(1, 2)
    if blocks.dtype == torch.int8:
        apart = rows.view(*rows.shape[:2], _LANES, -1).permute(0, 3, 2, 1).flatten(0, 2)
        values = (apart ^ 0x80).view(torch.int8)
    else:
        pairs = rows.view(*rows.shape[:2], _LANES, 2, 2)
        apart = torch.stack([pairs & 15, pairs >> 4], dim=-1).flatten(-2)  # [blocks, pairs, lanes, 2, 4]
        values = apart.permute(0, 4, 2, 1, 3).flatten(3).flatten(0, 2).view(torch.int8) - 8
    return QuantisedWeights(
        values[:outputs, :inputs].contiguous(),
        scales,
        zeros if zeros.any() else None,
        8 if blocks.dtype == torch.int8 else 4,
    )
