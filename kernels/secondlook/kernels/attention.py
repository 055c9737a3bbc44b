"""Attention of many queries to many keys on the CPU, summed in float32.

Equation (1) of Vaswani et al., arXiv 1706.03762, with grouped keys and values (Ainslie et al., arXiv
2305.13245). The scores of a few queries at a time are computed, weighed and used up while they are in the
cache, and what a causal query does not see is not computed. Where a processor multiplies bfloat16
(AVX512_BF16), its weights are rounded to that before they are; elsewhere nothing but the result is.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from secondlook.kernels.operators import register

__all__ = ["attention", "attention_reference"]

_DTYPES: Final = (torch.float32, torch.bfloat16)
_WIDEST: Final = 256
_LARGEST: Final = torch.finfo(torch.float32).max


def attention(
    query: Tensor,  # [N, H, L, D]
    keys: Tensor,  # [N, H_kv, S, D]
    values: Tensor,  # [N, H_kv, S, D]
    scale: float,
    causal: bool,
) -> Tensor:  # [N, L, H, D]
    """The attention of L rows to S positions.

    Deterministic: a row's result has the same bits whatever the number of threads; of the other rows it
    depends by nothing but where it stands among them.

    Args:
        query: float32 or bfloat16, on the CPU; D is 1 to 256, its stride 1; other strides are free.
        keys, values: of the same dtype, with H a multiple of H_kv; D's stride is 1, others are free.
        scale: multiplies the dot products.
        causal: the rows are the last L of the S positions, and each sees those up to its own.

    Returns:
        of query's dtype, contiguous. A row's is NaN, as a softmax's, if a score that it sees is NaN or +inf,
        or all are -inf; and it may be, if a value up to six positions behind those that it sees is not
        finite.

    Raises:
        TypeError: a dtype that is not one of those above.
        ValueError: a wrong shape, stride, device or value; the message names the argument.
    """
    seen: Tensor = _operator(query.detach(), keys.detach(), values.detach(), scale, causal)
    return seen


def attention_reference(query: Tensor, keys: Tensor, values: Tensor, scale: float, causal: bool) -> Tensor:
    """What `attention` computes, in float64 throughout."""
    group = query.shape[1] // keys.shape[1]
    known = [tensor.double().repeat_interleave(group, dim=1) for tensor in (keys, values)]
    scores = scale * query.double() @ known[0].transpose(2, 3)  # [N, H, L, S]
    if causal:
        rows, positions = scores.shape[2:]
        hidden = torch.ones(rows, positions, dtype=torch.bool, device=query.device).triu(positions - rows + 1)
        scores = scores.masked_fill(hidden, -math.inf)
        known[1] = known[1][:, :, :positions]
    weights = scores.softmax(-1)
    return (weights @ known[1]).transpose(1, 2).contiguous()


def _rounded_reference(query: Tensor, keys: Tensor, values: Tensor, scale: float, causal: bool) -> Tensor:
    return attention_reference(query, keys, values, scale, causal).to(query.dtype)


def _check(query: Tensor, keys: Tensor, values: Tensor, scale: float, causal: bool) -> None:
    if query.device.type not in ("cpu", "meta"):
        raise ValueError(f"query must be on the CPU, but is on {query.device}")
    if query.dim() != 4:
        raise ValueError(f"query must be [N, H, L, D], but has shape {list(query.shape)}")
    if query.dtype not in _DTYPES:
        raise TypeError(f"query must be float32 or bfloat16, but is {query.dtype}")
    batch, heads, rows, width = query.shape
    if not 1 <= width <= _WIDEST:
        raise ValueError(f"query must have 1 to {_WIDEST} elements in each head, but has {width}")
    for name, tensor in (("keys", keys), ("values", values)):
        if tensor.device != query.device:
            raise ValueError(f"{name} must be on {query.device} as query is, but is on {tensor.device}")
        if tensor.dtype != query.dtype:
            raise TypeError(f"{name} must have the dtype of query, {query.dtype}, but is {tensor.dtype}")
        if tensor.dim() != 4 or tensor.shape != (batch, keys.shape[1], keys.shape[2], width):
            raise ValueError(
                f"{name} must be [{batch}, H_kv, S, {width}], keys and values alike, but is "
                f"{list(tensor.shape)}"
            )
    if keys.shape[1] < 1 or heads < 1 or heads % keys.shape[1] != 0:
        raise ValueError(f"query must have a multiple of the {keys.shape[1]} heads of keys, but has {heads}")
    if keys.shape[2] < 1 or (causal and rows > keys.shape[2]):
        raise ValueError(f"keys must have a position for each of {rows} rows, but has {keys.shape[2]}")
    for name, tensor in (("query", query), ("keys", keys), ("values", values)):
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(
                f"{name} must be contiguous in its last dimension, but its stride is {tensor.stride(-1)}"
            )
    if not abs(scale) <= _LARGEST:
        raise ValueError(f"scale must be finite in float32, got {scale}")


def _fake(query: Tensor, keys: Tensor, values: Tensor, scale: float, causal: bool) -> Tensor:
    _check(query, keys, values, scale, causal)
    batch, heads, rows, width = query.shape
    return query.new_empty((batch, rows, heads, width))


_operator: Final = register(
    "attention(Tensor query, Tensor keys, Tensor values, float scale, bool causal) -> Tensor",
    check=_check,
    reference=_rounded_reference,
    fake=_fake,
)
