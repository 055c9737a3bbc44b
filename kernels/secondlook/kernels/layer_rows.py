"""What a transformer's layers do to many rows, on the CPU, as three operators:

    norm_linears:    x = norm(hidden);  x A, x B, ...
    output_mlp:      middle = hidden + mixed O;  x = norm(middle)
                     middle + (act(x G) * (x U)) D, or without a gate middle + act(x U) D
    encoder_layers:  of each layer q, k, v = norm_linears(hidden);  output_mlp(hidden, attention(q, k, v))

The first two stand before and behind a decoder's attention to its cache; the third is all of an encoder.
Norms are Zhang & Sennrich's (arXiv 1910.07467), or with a bias Ba et al.'s (arXiv 1607.06450). Threads are
woken once for an operator, and each takes what is next to be done, so that of one whose core another process
has the others do the work. Weights lie in blocks, see `secondlook.kernels.blocked_linear`; results have the
same bits whatever the other rows, of `encoder_layers` whatever the other sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from torch import Tensor
from torch.nn import functional

from secondlook.kernels.attention import attention_reference
from secondlook.kernels.blocked_linear import blocked_linear_reference
from secondlook.kernels.elementwise import quick_gelu_reference, rms_norm_reference
from secondlook.kernels.operators import register

__all__ = [
    "ACTIVATIONS",
    "ENCODER_WEIGHTS",
    "MLP_WEIGHTS",
    "encoder_layers",
    "encoder_layers_reference",
    "norm_linears",
    "norm_linears_reference",
    "output_mlp",
    "output_mlp_reference",
]

MLP_WEIGHTS: Final = (
    *("output", "output_bias", "norm", "norm_bias", "gate", "gate_bias"),
    *("up", "up_bias", "down", "down_bias"),
)
"""What `output_mlp` takes, in this order."""

ENCODER_WEIGHTS: Final = (
    *("first_norm", "first_norm_bias", "query", "query_bias", "key", "key_bias", "value", "value_bias"),
    *MLP_WEIGHTS,
)
"""What `encoder_layers` takes of each layer, in this order."""

ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "silu": functional.silu,
    "quick_gelu": quick_gelu_reference,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}
"""Of `output_mlp`."""


def norm_linears(
    hidden: Tensor,  # [R, D]
    norm: Tensor,  # [D]
    norm_bias: Tensor,  # [D], or of no elements
    epsilon: float,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    outputs: Sequence[int],
) -> list[Tensor]:  # [R, N] of each
    """What linear layers make of the same rows, normed before.

    Products are summed in float32; values are rounded where PyTorch's operations would round them.

    Args:
        hidden: float32 or bfloat16, contiguous, on the CPU, D even; all others are of its dtype.
        norm, norm_bias: without a bias it is a root mean square norm.
        weights: each [blocks, pairs, W, P] as `secondlook.kernels.block_weights` gives it.
        biases: [N] of each, or of no elements.
        outputs: N of each.

    Raises:
        RuntimeError: a wrong dtype, shape, stride or value; the message names the argument.
        ValueError: `hidden` is not on the CPU.
    """
    found: list[Tensor] = _norm_linears(hidden.detach(), norm, norm_bias, epsilon, weights, biases, outputs)
    return found


def output_mlp(
    hidden: Tensor,  # [R, D]
    mixed: Tensor,  # [R, H]
    weights: Sequence[Tensor],
    inner: int,
    epsilon: float,
    activation: str,
) -> Tensor:  # [R, D]
    """What the rest of a layer makes of its input and of what attention found: the output's product, a norm
    and a multilayer perceptron, gated or not, both added to what was before.

    Products are summed in float32; values are rounded where PyTorch's operations would round them, but for
    those within an activation.

    Args:
        hidden: float32 or bfloat16, contiguous, on the CPU, D even; all others are of its dtype.
        mixed: contiguous, H even.
        weights: those of `MLP_WEIGHTS`. Of no elements are biases and a gate that there are not. Products lie
            in blocks as `secondlook.kernels.block_weights` gives them: `output` D outputs of H inputs, `gate`
            and `up` I of D, in blocks of the same width, `down` D of I.
        inner: I, even.
        activation: a name in `ACTIVATIONS`; of the gate, or without one of `up`.

    Raises:
        RuntimeError: a wrong dtype, shape, stride or value; the message names the argument.
        ValueError: `hidden` is not on the CPU.
    """
    found: Tensor = _output_mlp(hidden.detach(), mixed, weights, inner, epsilon, activation)
    return found


def encoder_layers(
    hidden: Tensor,  # [N, L, D]
    weights: Sequence[Tensor],
    heads: int,
    inner: int,
    scale: float,
    epsilon: float,
    activation: str,
) -> Tensor:  # [N, L, D]
    """What an encoder's layers make of N sequences, in each of which all rows see all.

    Rounded as `norm_linears`, `secondlook.kernels.attention` and `output_mlp` round.

    Args:
        hidden: float32 or bfloat16, contiguous, on the CPU, D even; all others are of its dtype.
        weights: of one layer after the other, each those of `ENCODER_WEIGHTS`, as `norm_linears` and
            `output_mlp` take them; queries, keys and values are D outputs of D inputs.
        heads: a divisor of D, each of at most 256 elements.
        inner, activation: as of `output_mlp`.
        scale: of the attention.
        epsilon: of all norms.

    Raises:
        RuntimeError: a wrong dtype, shape, stride or value; the message names the argument, and the layer.
        ValueError: `hidden` is not on the CPU.
    """
    found: Tensor = _encoder_layers(hidden.detach(), weights, heads, inner, scale, epsilon, activation)
    return found


def norm_linears_reference(
    hidden: Tensor,
    norm: Tensor,
    norm_bias: Tensor,
    epsilon: float,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    outputs: Sequence[int],
) -> list[Tensor]:
    """What `norm_linears` computes, in float64 throughout."""
    x = _normed(hidden, norm, norm_bias, epsilon)
    return [
        blocked_linear_reference(x, weight, bias if bias.numel() else None, count)
        for weight, bias, count in zip(weights, biases, outputs, strict=True)
    ]


def output_mlp_reference(
    hidden: Tensor, mixed: Tensor, weights: Sequence[Tensor], inner: int, epsilon: float, activation: str
) -> Tensor:
    """What `output_mlp` computes, in float64 throughout."""
    w = {name: weight if weight.numel() else None for name, weight in zip(MLP_WEIGHTS, weights, strict=True)}

    def product(x: Tensor, name: str, outputs: int) -> Tensor:
        weight = w[name]
        assert weight is not None, "a product has weights"
        return blocked_linear_reference(x, weight, w[f"{name}_bias"], outputs)

    size = hidden.shape[1]
    middle = hidden.double() + product(mixed, "output", size)
    x = _normed(middle, weights[2], weights[3], epsilon)
    between = product(x, "up", inner)
    if w["gate"] is None:
        between = ACTIVATIONS[activation](between)
    else:
        between = ACTIVATIONS[activation](product(x, "gate", inner)) * between
    return middle + product(between, "down", size)


def encoder_layers_reference(
    hidden: Tensor,
    weights: Sequence[Tensor],
    heads: int,
    inner: int,
    scale: float,
    epsilon: float,
    activation: str,
) -> Tensor:
    """What `encoder_layers` computes, in float64 throughout."""
    count, length, size = hidden.shape
    rows = hidden.double().reshape(-1, size)
    for at in range(0, len(weights), len(ENCODER_WEIGHTS)):
        norm, bias, *parts = weights[at : at + len(ENCODER_WEIGHTS)]
        found = norm_linears_reference(rows, norm, bias, epsilon, parts[:6:2], parts[1:6:2], [size] * 3)
        query, key, value = (one.view(count, length, heads, size // heads).transpose(1, 2) for one in found)
        mixed = attention_reference(query, key, value, scale, False).reshape(-1, size)
        rows = output_mlp_reference(rows, mixed, parts[6:], inner, epsilon, activation)
    return rows.view(hidden.shape)


def _normed(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    if not bias.numel():
        return rms_norm_reference(x, weight, epsilon)
    return functional.layer_norm(x.double(), (x.shape[1],), weight.double(), bias.double(), epsilon)


def _check(hidden: Tensor, *arguments: object) -> None:
    """Only where there is a kernel at all: what it is given, that checks itself."""
    if hidden.device.type != "cpu":
        raise ValueError(f"hidden must be on the CPU, but is on {hidden.device}")


def _rounded_linears(hidden: Tensor, *arguments: Any) -> list[Tensor]:
    return [one.to(hidden.dtype) for one in norm_linears_reference(hidden, *arguments)]


_norm_linears: Final = register(
    "norm_linears(Tensor hidden, Tensor norm, Tensor norm_bias, float epsilon, Tensor[] weights, "
    "Tensor[] biases, int[] outputs) -> Tensor[]",
    check=_check,
    reference=_rounded_linears,
    fake=lambda hidden, *others: [hidden.new_empty((len(hidden), count)) for count in others[-1]],
)
_output_mlp: Final = register(
    "output_mlp(Tensor hidden, Tensor mixed, Tensor[] weights, int inner, float epsilon, str activation) "
    "-> Tensor",
    check=_check,
    reference=lambda hidden, *others: output_mlp_reference(hidden, *others).to(hidden.dtype),
    fake=lambda hidden, *_: hidden.new_empty(hidden.shape),
)
_encoder_layers: Final = register(
    "encoder_layers(Tensor hidden, Tensor[] weights, int heads, int inner, float scale, float epsilon, "
    "str activation) -> Tensor",
    check=_check,
    reference=lambda hidden, *others: encoder_layers_reference(hidden, *others).to(hidden.dtype),
    fake=lambda hidden, *_: hidden.new_empty(hidden.shape),
)
