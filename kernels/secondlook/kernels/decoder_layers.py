"""All layers of a decoder for a step of a few rows, as one operator, on the CPU. Of each:

    x = norm(hidden);  q, k, v = x Q, x K, x V;  q, k normed where there are norms, rotated
    k, v into the cache;  middle = hidden + attention(q, cache) O
    x = norm(middle);  result = middle + (silu(x G) * (x U)) D

That is the layer of Llama (Touvron et al., arXiv 2302.13971), of Qwen2 with biases and of Qwen3 with norms of
queries and keys. In a step of a few rows each operation takes a few microseconds; what runs between
operations takes as long, and to wake a thread that fell asleep there longer. Here nothing runs between them,
and threads are woken once. Weights lie in blocks, see `secondlook.kernels.blocked_linear`, and may be of few
bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from torch import Tensor

from secondlook.kernels.blocked_linear import blocked_linear_reference
from secondlook.kernels.decode_attention import decode_attention_reference
from secondlook.kernels.elementwise import gated_silu_reference, rms_norm_reference, rotate_reference
from secondlook.kernels.operators import register

__all__ = ["LAYER_WEIGHTS", "decoder_layers", "decoder_layers_reference"]

LAYER_WEIGHTS: Final = (
    *(
        "input_norm",
        "query",
        "key",
        "value",
        "query_bias",
        "key_bias",
        "value_bias",
        "query_norm",
        "key_norm",
    ),
    *("output", "output_norm", "gate", "up", "down"),
)
"""What `decoder_layers` takes of each layer, in this order."""


def decoder_layers(
    hidden: Tensor,  # [B, D]
    weights: Sequence[Tensor],
    cosine: Tensor,  # [B, W]
    sine: Tensor,  # [B, W]
    keys: Sequence[Tensor],  # [S, H_kv, T, W] of each layer
    values: Sequence[Tensor],  # [S, H_kv, T, W] of each layer
    slots: Tensor,  # [B]
    places: Tensor,  # [B]
    heads: int,
    inner: int,
    scale: float,
    epsilon: float,
) -> Tensor:  # [B, D]
    """What layers make of one row each of B sequences; writes their keys and values into the cache.

    Sums are in float32; between operations values are rounded as PyTorch's operations round them. A row's
    result has the same bits whatever the other rows and the number of threads, but no two rows may be of one
    slot.

    Args:
        hidden: float32 or bfloat16, contiguous, on the CPU; all other floating tensors are of its dtype, and
            contiguous.
        weights: of one layer after the other, each those of `LAYER_WEIGHTS`. Norms are [D], `query_norm` and
            `key_norm` [W]; biases [H * W] and [H_kv * W]. Those two norms and biases may be absent, that is,
            of no elements. Products, each as `secondlook.kernels.block_weights` or `block_quantised` gives
            it: `query` of H * W outputs of D inputs, `key` and `value` H_kv * W of D, `output` D of H * W,
            `gate` and `up` I of D, in blocks of the same width, `down` D of I.
        cosine, sine: of each row's rotation, for both halves of a head.
        keys, values: of each layer, in slots; W is even and at most 256, its stride 1.
        slots, places: int64, each row's slot, and the place of its key there; it sees that and all before it.
        heads, inner: H, a multiple of H_kv, and I.
        scale: of the attention.
        epsilon: of all norms.

    Returns:
        contiguous.

    Raises:
        RuntimeError: a wrong dtype, shape, stride or value; the message names the argument, and the layer.
        ValueError: `hidden` is not on the CPU.
    """
    found: Tensor = _operator(
        hidden.detach(), weights, cosine, sine, keys, values, slots, places, heads, inner, scale, epsilon
    )
    return found


def decoder_layers_reference(
    hidden: Tensor,
    weights: Sequence[Tensor],
    cosine: Tensor,
    sine: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    slots: Tensor,
    places: Tensor,
    heads: int,
    inner: int,
    scale: float,
    epsilon: float,
) -> Tensor:
    """What `decoder_layers` computes, in float64 throughout, but for the cache, which has its own dtype."""
    hidden, size = hidden.double(), len(LAYER_WEIGHTS)
    for layer, (its_keys, its_values) in enumerate(zip(keys, values, strict=True)):
        its_weights = weights[layer * size : (layer + 1) * size]
        w = {
            name: weight if weight.numel() else None
            for name, weight in zip(LAYER_WEIGHTS, its_weights, strict=True)
        }
        call = (cosine, sine, its_keys, its_values, slots, places, heads, inner, scale, epsilon)
        hidden = _layer_reference(hidden, w, *call)
    return hidden


def _layer_reference(
    hidden: Tensor,
    w: dict[str, Any],
    cosine: Tensor,
    sine: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    places: Tensor,
    heads: int,
    inner: int,
    scale: float,
    epsilon: float,
) -> Tensor:
    rows, size = hidden.shape
    kv_heads, width = keys.shape[1], keys.shape[3]
    x = rms_norm_reference(hidden, w["input_norm"], epsilon)
    q, k, v = (
        blocked_linear_reference(x, w[name], w[f"{name}_bias"], count * width).view(rows, count, width)
        for name, count in (("query", heads), ("key", kv_heads), ("value", kv_heads))
    )
    turned = []
    for heads_of, norm in ((q, w["query_norm"]), (k, w["key_norm"])):
        normed = heads_of if norm is None else rms_norm_reference(heads_of, norm, epsilon)
        turned.append(rotate_reference(normed, cosine, sine))
    keys[slots, :, places] = turned[1].to(keys.dtype)
    values[slots, :, places] = v.to(values.dtype)
    mixed = decode_attention_reference(turned[0], keys, values, slots, places + 1, scale).flatten(1)
    middle = hidden + blocked_linear_reference(mixed, w["output"], None, size)
    x = rms_norm_reference(middle, w["output_norm"], epsilon)
    gates, ups = (blocked_linear_reference(x, w[name], None, inner) for name in ("gate", "up"))
    return middle + blocked_linear_reference(gated_silu_reference(gates, ups), w["down"], None, size)


def _rounded_reference(hidden: Tensor, *arguments: Any) -> Tensor:
    return decoder_layers_reference(hidden, *arguments).to(hidden.dtype)


def _check(hidden: Tensor, *arguments: object) -> None:
    """Only where there is a kernel at all: what it is given, that checks itself, for it is called once a
    step."""
    if hidden.device.type != "cpu":
        raise ValueError(f"hidden must be on the CPU, but is on {hidden.device}")


def _fake(hidden: Tensor, *arguments: object) -> Tensor:
    _check(hidden)
    return hidden.new_empty(hidden.shape)


_operator: Final = register(
    "decoder_layers(Tensor hidden, Tensor[] weights, Tensor cosine, Tensor sine, Tensor(a!)[] keys, "
    "Tensor(b!)[] values, Tensor slots, Tensor places, int heads, int inner, float scale, float epsilon) "
    "-> Tensor",
    check=_check,
    reference=_rounded_reference,
    fake=_fake,
)
