"""Where one position looks: a row of softmax attention, averaged over heads, without the attention matrices.

Equation (1) of Vaswani et al., arXiv 1706.03762, for a single query, with grouped keys (Ainslie et al.,
arXiv 2305.13245); the weighted sum over heads of what falls on one span of the keys:

    result[b, n] = sum_h head_weights[h] * softmax_s(scale * query[b, h] . keys[b, h // G, s])[start + n]

where G = H / H_kv, and s runs over the valid keys, [0, lengths[b]).
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor

from secondlook.kernels.operators import register

__all__ = ["attention_row", "attention_row_reference"]

_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
_WIDEST: Final = 256
_LARGEST: Final = torch.finfo(torch.float32).max


def attention_row(
    query: Tensor,  # [B, H, D]
    keys: Tensor,  # [B, H_kv, S, D]
    lengths: Tensor,  # [B]
    start: int,
    stop: int,
    scale: float,
    head_weights: Tensor | None = None,  # [H]
) -> Tensor:  # [B, stop - start]
    """The attention of one query position to the keys of a span, summed over heads with weights.

    Keys at and after a length have no influence, so a cache may hold anything there. A row is NaN, as a
    softmax's, if a valid key's score is NaN or +inf, or all are -inf. Deterministic: on one device, equal
    arguments give equal bits, whatever the number of threads; on CUDA, if their keys are laid out alike, at
    multiples of 16 bytes or not.

    Args:
        query: float32, float16 or bfloat16; D is 1 to 256, its stride 1; other strides are free.
        keys: of the same dtype, with H a multiple of H_kv: a view of a cache, with D's stride 1. Dot products
            are summed in float32.
        lengths: int64, in [0, S]. On CUDA they are not looked at here, and clamped to [0, S].
        start, stop: the span, 0 <= start <= stop <= S.
        scale: multiplies the dot products.
        head_weights: float32; 1 / H each by default, which gives the mean.

    Returns:
        float32; 0 at positions that are not valid.

    Raises:
        TypeError: a dtype that is not one of those above.
        ValueError: a wrong shape, stride, device or value; the message names the argument.
    """
    weights = None if head_weights is None else head_weights.detach()
    row: Tensor = _operator(query.detach(), keys.detach(), lengths, start, stop, scale, weights)
    return row


def attention_row_reference(
    query: Tensor,  # [B, H, D]
    keys: Tensor,  # [B, H_kv, S, D]
    lengths: Tensor,  # [B]
    start: int,
    stop: int,
    scale: float,
    head_weights: Tensor | None = None,  # [H]
) -> Tensor:  # [B, stop - start]
    """What `attention_row` computes, in float64 throughout, for any floating dtype; lengths are clamped."""
    batch, heads, width = query.shape
    kv_heads, size = keys.shape[1], keys.shape[2]
    grouped = query.double().reshape(batch, kv_heads, heads // kv_heads, width)
    scores = scale * torch.einsum("bkgd,bksd->bkgs", grouped, keys.double()).reshape(batch, heads, size)
    valid = torch.arange(size, device=keys.device) < lengths[:, None]  # [B, S]
    scores = scores.masked_fill(~valid[:, None], -math.inf)
    weights = scores.softmax(dim=2)[:, :, start:stop]  # [B, H, N]
    if head_weights is None:
        row = weights.mean(dim=1)
    else:
        row = (weights * head_weights.double()[:, None]).sum(dim=1)
    return row.masked_fill(~valid[:, start:stop], 0.0)


def _fake(
    query: Tensor,
    keys: Tensor,
    lengths: Tensor,
    start: int,
    stop: int,
    scale: float,
    head_weights: Tensor | None = None,
) -> Tensor:
    _check(query, keys, lengths, start, stop, scale, head_weights)
    return query.new_empty((query.shape[0], stop - start), dtype=torch.float32)


def _check_call(
    query: Tensor,
    keys: Tensor,
    lengths: Tensor,
    start: int,
    stop: int,
    scale: float,
    head_weights: Tensor | None = None,
) -> None:
    """Everything, as far as it can be known without waiting for a GPU."""
    _check(query, keys, lengths, start, stop, scale, head_weights)
    if lengths.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_lengths(lengths, keys.shape[2])


def _check(
    query: Tensor,
    keys: Tensor,
    lengths: Tensor,
    start: int,
    stop: int,
    scale: float,
    head_weights: Tensor | None,
) -> None:
    """All that can be known without the tensors' values."""
    _check_dimensions("query", query, 3, "[B, H, D]")
    _check_dimensions("keys", keys, 4, "[B, H_kv, S, D]")
    _check_dimensions("lengths", lengths, 1, "[B]")
    if query.dtype not in _DTYPES:
        raise TypeError(f"query must be float32, float16 or bfloat16, but is {query.dtype}")
    if keys.dtype != query.dtype:
        raise TypeError(f"keys must have the dtype of query, {query.dtype}, but is {keys.dtype}")
    if lengths.dtype != torch.int64:
        raise TypeError(f"lengths must be torch.int64, but is {lengths.dtype}")
    batch, heads, width = query.shape
    kv_heads, size = keys.shape[1], keys.shape[2]
    if not 1 <= width <= _WIDEST:
        raise ValueError(f"query must have 1 to {_WIDEST} elements in each head, but has {width}")
    if kv_heads < 1 or heads < 1 or heads % kv_heads != 0:
        raise ValueError(f"query must have a multiple of the {kv_heads} heads of keys, but has {heads}")
    if keys.shape[0] != batch or keys.shape[3] != width:
        raise ValueError(f"keys must have shape [{batch}, H_kv, S, {width}], but has {list(keys.shape)}")
    if lengths.shape[0] != batch:
        raise ValueError(f"lengths must have shape [{batch}], but has {list(lengths.shape)}")
    for name, tensor in (("query", query), ("keys", keys)):
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(
                f"{name} must be contiguous in its last dimension, but its stride is {tensor.stride(-1)}"
            )
    if not 0 <= start <= stop <= size:
        raise ValueError(f"start and stop must satisfy 0 <= start <= stop <= {size}, got {start} and {stop}")
    if not abs(scale) <= _LARGEST:
        raise ValueError(f"scale must be finite in float32, got {scale}")
    others = [("keys", keys), ("lengths", lengths)]
    if head_weights is not None:
        if head_weights.dtype != torch.float32:
            raise TypeError(f"head_weights must be torch.float32, but is {head_weights.dtype}")
        if head_weights.shape != (heads,):
            raise ValueError(f"head_weights must have shape [{heads}], but has {list(head_weights.shape)}")
        others.append(("head_weights", head_weights))
    for name, tensor in others:
        if tensor.device != query.device:
            raise ValueError(f"{name} must be on {query.device} as query is, but is on {tensor.device}")


def _check_dimensions(name: str, tensor: Tensor, dimensions: int, shape: str) -> None:
    if tensor.dim() != dimensions:
        raise ValueError(f"{name} must be {shape}, but has shape {list(tensor.shape)}")


def _check_lengths(lengths: Tensor, size: int) -> None:
    wrong = [length for length in lengths.tolist() if not 0 <= length <= size]
    if wrong:
        raise ValueError(f"lengths must be in [0, {size}], but holds {wrong[0]}")


def _float32_reference(*arguments: Any) -> Tensor:
    return attention_row_reference(*arguments).float()


_operator: Final = register(
    "attention_row(Tensor query, Tensor keys, Tensor lengths, int start, int stop, float scale, "
    "Tensor? head_weights=None) -> Tensor",
    check=_check_call,
    reference=_float32_reference,
    fake=_fake,
)
