"""The attention of a decode step over a slotted cache, without gathering its slots and without masks.

Equation (1) of Vaswani et al., arXiv 1706.03762, for one query position of each row, with grouped keys and
values (Ainslie et al., arXiv 2305.13245):

    result[b, h] = sum_t softmax_t(scale * query[b, h] . keys[s, h // G, t]) values[s, h // G, t]

where s = slots[b], G = H / H_kv, and t runs over the valid positions, [0, lengths[b]). Computed as
flash-decoding (Dao et al., https://pytorch.org/blog/flash-decoding/, 2023): the positions are cut into
chunks, each with its own softmax, which are merged as in Milakov & Gimelshein, arXiv 1805.02867.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from secondlook.kernels.operators import register

__all__ = ["decode_attention", "decode_attention_reference"]

_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
_WIDEST: Final = 256
_LARGEST: Final = torch.finfo(torch.float32).max


def decode_attention(
    query: Tensor,  # [B, H, D]
    keys: Tensor,  # [S, H_kv, T, D]
    values: Tensor,  # [S, H_kv, T, D]
    slots: Tensor,  # [B]
    lengths: Tensor,  # [B]
    scale: float,
) -> Tensor:  # [B, H, D]
    """The attention of one position of each row to what its slot of a cache holds.

    Positions at and after a length have no influence, nor have other slots, so a cache may hold anything
    there. A head's result is NaN, as a softmax's, if a valid position's score is NaN or +inf, or all are
    -inf. Deterministic: on one device, a row's result has the same bits whatever the other rows, the number
    of threads and the cache's size; on CUDA, if keys and values are laid out alike, at multiples of 16 bytes
    or not.

    Args:
        query: float32, float16 or bfloat16; D is 1 to 256, its stride 1; other strides are free.
        keys, values: of the same dtype, S slots of T positions, with H a multiple of H_kv; D's stride is 1,
            other strides are free. Products are summed in float32.
        slots: int64, each row's slot, in [0, S); rows may share one.
        lengths: int64, each row's valid positions, in [0, T]. On CUDA neither slots nor lengths are looked at
            here; both are clamped, so that a captured graph may be replayed with others.
        scale: multiplies the dot products.

    Returns:
        of query's dtype, contiguous; zeros where a length is 0.

    Raises:
        TypeError: a dtype that is not one of those above.
        ValueError: a wrong shape, stride, device or value; the message names the argument.
    """
    seen: Tensor = _operator(query.detach(), keys.detach(), values.detach(), slots, lengths, scale)
    return seen


def decode_attention_reference(
    query: Tensor,  # [B, H, D]
    keys: Tensor,  # [S, H_kv, T, D]
    values: Tensor,  # [S, H_kv, T, D]
    slots: Tensor,  # [B]
    lengths: Tensor,  # [B]
    scale: float,
) -> Tensor:  # [B, H, D]
    """What `decode_attention` computes, in float64 throughout, for any floating dtype; slots and lengths are
    clamped."""
    batch, heads, width = query.shape
    kv_heads, size = keys.shape[1], keys.shape[2]
    chosen = slots.clamp(0, keys.shape[0] - 1)
    invalid = torch.arange(size, device=keys.device) >= lengths[:, None, None, None]  # [B, 1, 1, T]
    grouped = query.double().reshape(batch, kv_heads, heads // kv_heads, width)
    scores = scale * torch.einsum("bkgd,bktd->bkgt", grouped, keys[chosen].double())
    weights = scores.masked_fill(invalid, -math.inf).softmax(dim=3)
    known = values[chosen].double().masked_fill(invalid.transpose(2, 3), 0.0)
    row = torch.einsum("bkgt,bktd->bkgd", weights, known).reshape(batch, heads, width)
    return row.masked_fill((lengths <= 0)[:, None, None], 0.0)


def _rounded_reference(
    query: Tensor, keys: Tensor, values: Tensor, slots: Tensor, lengths: Tensor, scale: float
) -> Tensor:
    found = decode_attention_reference(query, keys, values, slots, lengths, scale)
    return found.to(query.dtype).contiguous()


def _check_call(
    query: Tensor, keys: Tensor, values: Tensor, slots: Tensor, lengths: Tensor, scale: float
) -> None:
    _check(query, keys, values, slots, lengths, scale)
    if query.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_values(keys, slots, lengths)


def _fake(
    query: Tensor, keys: Tensor, values: Tensor, slots: Tensor, lengths: Tensor, scale: float
) -> Tensor:
    _check(query, keys, values, slots, lengths, scale)
    return query.new_empty(query.shape)


def _check(query: Tensor, keys: Tensor, values: Tensor, slots: Tensor, lengths: Tensor, scale: float) -> None:
    """All that can be known without the tensors' values."""
    cache = (("keys", keys), ("values", values))
    rows = (("slots", slots), ("lengths", lengths))
    if query.dim() != 3:
        raise ValueError(f"query must be [B, H, D], but has shape {list(query.shape)}")
    batch, heads, width = query.shape
    if query.dtype not in _DTYPES:
        raise TypeError(f"query must be float32, float16 or bfloat16, but is {query.dtype}")
    if not 1 <= width <= _WIDEST:
        raise ValueError(f"query must have 1 to {_WIDEST} elements in each head, but has {width}")
    for name, tensor in cache:
        if tensor.dim() != 4:
            raise ValueError(f"{name} must be [S, H_kv, T, D], but has shape {list(tensor.shape)}")
        if tensor.dtype != query.dtype:
            raise TypeError(f"{name} must have the dtype of query, {query.dtype}, but is {tensor.dtype}")
        if tensor.shape[3] != width:
            raise ValueError(f"{name} must have shape [S, H_kv, T, {width}], but has {list(tensor.shape)}")
    if keys.shape[0] < 1:
        raise ValueError("keys must have at least one slot, but has none")
    if values.shape != keys.shape:
        raise ValueError(f"values must have the shape of keys, {list(keys.shape)}, got {list(values.shape)}")
    if keys.shape[1] < 1 or heads < 1 or heads % keys.shape[1] != 0:
        raise ValueError(f"query must have a multiple of the {keys.shape[1]} heads of keys, but has {heads}")
    for name, tensor in rows:
        if tensor.shape != (batch,):
            raise ValueError(f"{name} must have shape [{batch}], but has {list(tensor.shape)}")
        if tensor.dtype != torch.int64:
            raise TypeError(f"{name} must be torch.int64, but is {tensor.dtype}")
    for name, tensor in (("query", query), *cache):
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(
                f"{name} must be contiguous in its last dimension, but its stride is {tensor.stride(-1)}"
            )
    if not abs(scale) <= _LARGEST:
        raise ValueError(f"scale must be finite in float32, got {scale}")
    for name, tensor in (*cache, *rows):
        if tensor.device != query.device:
            raise ValueError(f"{name} must be on {query.device} as query is, but is on {tensor.device}")


def _check_values(keys: Tensor, slots: Tensor, lengths: Tensor) -> None:
    for name, tensor, last in (("slots", slots, keys.shape[0] - 1), ("lengths", lengths, keys.shape[2])):
        wrong = [value for value in tensor.tolist() if not 0 <= value <= last]
        if wrong:
            raise ValueError(f"{name} must be in [0, {last}], but holds {wrong[0]}")


_operator: Final = register(
    "decode_attention(Tensor query, Tensor keys, Tensor values, Tensor slots, Tensor lengths, float scale) "
    "-> Tensor",
    check=_check_call,
    reference=_rounded_reference,
    fake=_fake,
)
