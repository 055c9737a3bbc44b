"""Weights of few bits as floats, in the blocks that a matrix product of many rows reads, on the CPU.

Of many rows the product itself takes the time, and libraries for it take floats: so all weights of a layer
are written as such, into memory that many layers share, before each product.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor

from secondlook.kernels.blocked_linear import block_weights
from secondlook.kernels.operators import register
from secondlook.kernels.quantised_blocks import unblock_quantised

__all__ = ["dequantise_blocks"]


def dequantise_blocks(
    weight: Tensor,  # of few bits, in blocks
    inputs: int,
    result: Tensor,  # [blocks, pairs, W, P]
) -> None:
    """Write weights, computed in float32 and rounded once, as `block_weights` would lay them.

    Args:
        weight: as `block_quantised` gives it, on the CPU.
        inputs: of each output.
        result: float32 or bfloat16, contiguous, of as many outputs and of as many inputs or more; what is
            beyond those of `weight` stays as it was.

    Raises:
        RuntimeError: a wrong dtype, shape or stride; the message names the argument.
        ValueError: `weight` is not on the CPU.
    """
    _operator(weight, inputs, result)


def _reference(weight: Tensor, inputs: int, result: Tensor) -> None:
    width, outputs = result.shape[2], min(result.shape[0] * result.shape[2], weight.shape[0] * 64)
    blocks = block_weights(unblock_quantised(weight, outputs, inputs).dequantised(result.dtype), width)
    result[: len(blocks), : blocks.shape[1]] = blocks


def _check(weight: Tensor, inputs: int, result: Tensor) -> None:
    """What is given is checked by the kernel itself."""
    if weight.device.type not in ("cpu", "meta"):
        raise ValueError(f"weight must be on the CPU, but is on {weight.device}")


_operator: Final = register(
    "dequantise_blocks(Tensor weight, int inputs, Tensor(a!) result) -> ()",
    check=_check,
    reference=_reference,
    fake=lambda *_: None,
)
