"""A layer of a decoder for a step of a few rows, as one operator, on the CPU.

    x = norm(hidden);  q, k, v = x Q, x K, x V;  q, k normed where there are norms, rotated
    k, v into the cache;  middle = hidden + attention(q, cache) O
    x = norm(middle);  result = middle + (silu(x G) * (x U)) D

That is the layer of Llama (Touvron et al., arXiv 2302.13971), of Qwen2 with biases and of Qwen3 with norms of
queries and keys. In a step of a few rows each operation takes a few microseconds, and what runs between them
as long; here nothing does. Weights lie in blocks, see `secondlook.kernels.blocked_linear`, and may be of few
bits.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor

from secondlook.kernels.blocked_linear import blocked_linear_reference
from secondlook.kernels.decode_attention import decode_attention_reference
from secondlook.kernels.elementwise import gated_silu_reference, rms_norm_reference, rotate_reference
from secondlook.kernels.operators import register

__all__ = ["decoder_layer", "decoder_layer_reference"]


def decoder_layer(
    hidden: Tensor,  # [B, D]
    input_norm: Tensor,  # [D]
    query: Tensor,  # weights in blocks: H * W outputs of D inputs
    key: Tensor,  # H_kv * W of D
    value: Tensor,  # H_kv * W of D
    query_bias: Tensor | None,  # [H * W]
    key_bias: Tensor | None,  # [H_kv * W]
    value_bias: Tensor | None,  # [H_kv * W]
    query_norm: Tensor | None,  # [W]
    key_norm: Tensor | None,  # [W]
    cosine: Tensor,  # [B, W]
    sine: Tensor,  # [B, W]
    keys: Tensor,  # [S, H_kv, T, W]
    values: Tensor,  # [S, H_kv, T, W]
    slots: Tensor,  # [B]
    places: Tensor,  # [B]
    output: Tensor,  # D of H * W
    output_norm: Tensor,  # [D]
    gate: Tensor,  # I of D
    up: Tensor,  # I of D
    down: Tensor,  # D of I
    heads: int,
    inner: int,
    scale: float,
    epsilon: float,
) -> Tensor:  # [B, D]
    """What a layer makes of one row each of B sequences; writes their keys and values into the cache.

    Sums are in float32; between operations values are rounded as PyTorch's operations round them. A row's
    result has the same bits whatever the other rows and the number of threads, but no two rows may be of one
    slot.

    Args:
        hidden: float32 or bfloat16, contiguous, on the CPU; all other floating tensors are of its dtype, and
            contiguous.
        query, key, value, output, gate, up, down: each as `secondlook.kernels.block_weights` or
            `block_quantised` gives it; `gate` and `up` in blocks of the same width.
        cosine, sine: of each row's rotation, for both halves of a head.
        keys, values: of the layer, in slots; W is even and at most 256, its stride 1.
        slots, places: int64, each row's slot, and the place of its key there; it sees that and all before it.
        heads, inner: H, a multiple of H_kv, and I.
        scale: of the attention.
        epsilon: of all norms.

    Returns:
        contiguous.

    Raises:
        RuntimeError: a wrong dtype, shape, stride or value; the message names the argument.
    """
    found: Tensor = _operator(
        *(hidden.detach(), input_norm, query, key, value, query_bias, key_bias, value_bias, query_norm),
        *(key_norm, cosine, sine, keys, values, slots, places, output, output_norm, gate, up, down, heads),
        *(inner, scale, epsilon),
    )
    return found


def decoder_layer_reference(
    hidden: Tensor,
    input_norm: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_bias: Tensor | None,
    key_bias: Tensor | None,
    value_bias: Tensor | None,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    cosine: Tensor,
    sine: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    places: Tensor,
    output: Tensor,
    output_norm: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    heads: int,
    inner: int,
    scale: float,
    epsilon: float,
) -> Tensor:
    """What `decoder_layer` computes, in float64 throughout, but for the cache, which has its own dtype."""
    rows, size = hidden.shape
    kv_heads, width = keys.shape[1], keys.shape[3]
    x = rms_norm_reference(hidden, input_norm, epsilon)
    q = blocked_linear_reference(x, query, query_bias, heads * width).view(rows, heads, width)
    k = blocked_linear_reference(x, key, key_bias, kv_heads * width).view(rows, kv_heads, width)
    v = blocked_linear_reference(x, value, value_bias, kv_heads * width).view(rows, kv_heads, width)
    turned = []
    for heads_of, norm in ((q, query_norm), (k, key_norm)):
        normed = heads_of if norm is None else rms_norm_reference(heads_of, norm, epsilon)
        turned.append(rotate_reference(normed, cosine, sine))
    keys[slots, :, places] = turned[1].to(keys.dtype)
    values[slots, :, places] = v.to(values.dtype)
    mixed = decode_attention_reference(turned[0], keys, values, slots, places + 1, scale).flatten(1)
    middle = hidden.double() + blocked_linear_reference(mixed, output, None, size)
    x = rms_norm_reference(middle, output_norm, epsilon)
    gates, ups = (blocked_linear_reference(x, each, None, inner) for each in (gate, up))
    return middle + blocked_linear_reference(gated_silu_reference(gates, ups), down, None, size)


def _rounded_reference(*arguments: object) -> Tensor:
    hidden = arguments[0]
    assert isinstance(hidden, Tensor), "the schema says so"
    return decoder_layer_reference(*arguments).to(hidden.dtype)  # type: ignore[arg-type]


def _check(*arguments: object) -> None:
    """Only where there is a kernel at all: what it is given, that checks itself, for it is called once a
    layer and step."""
    hidden = arguments[0]
    if isinstance(hidden, Tensor) and hidden.device.type != "cpu":
        raise ValueError(f"hidden must be on the CPU, but is on {hidden.device}")


def _fake(*arguments: object) -> Tensor:
    _check(*arguments)
    hidden = arguments[0]
    assert isinstance(hidden, Tensor), "the schema says so"
    return hidden.new_empty(hidden.shape)


_operator: Final = register(
    "decoder_layer(Tensor hidden, Tensor input_norm, Tensor query, Tensor key, Tensor value, "
    "Tensor? query_bias, Tensor? key_bias, Tensor? value_bias, Tensor? query_norm, Tensor? key_norm, "
    "Tensor cosine, Tensor sine, Tensor(a!) keys, Tensor(b!) values, Tensor slots, Tensor places, "
    "Tensor output, Tensor output_norm, Tensor gate, Tensor up, Tensor down, int heads, int inner, "
    "float scale, float epsilon) -> Tensor",
    check=_check,
    reference=_rounded_reference,
    fake=_fake,
)
