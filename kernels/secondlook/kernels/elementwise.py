"""What stands between a transformer's products, each in one pass over memory, on the CPU.

PyTorch's operations write a tensor after each step, and read it again for the next. Here values are rounded
where they would be, and stay in registers.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from secondlook.kernels.operators import register

__all__ = [
    "gated_silu",
    "gated_silu_reference",
    "quick_gelu",
    "quick_gelu_reference",
    "rms_norm",
    "rms_norm_reference",
    "rotate",
    "rotate_reference",
    "write_cache",
    "write_cache_reference",
]

_DTYPES: Final = (torch.float32, torch.bfloat16)


def rms_norm(
    input: Tensor,  # noqa: A002 -- torch's name; [R, D]
    weight: Tensor,  # [D]
    epsilon: float,
) -> Tensor:  # [R, D]
    """weight * input / sqrt(mean(input²) + epsilon): Zhang & Sennrich, arXiv 1910.07467.

    Args:
        input: float32 or bfloat16, on the CPU; its last stride is 1.
        weight: of the same dtype, contiguous.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, stride or device; the message names the argument.
    """
    found: Tensor = _rms_norm(input.detach(), weight, epsilon)
    return found


def rms_norm_reference(input: Tensor, weight: Tensor, epsilon: float) -> Tensor:  # noqa: A002
    """What `rms_norm` computes, in float64 throughout."""
    x = input.double()
    return weight.double() * x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt()


def rotate(
    input: Tensor,  # noqa: A002 -- torch's name; [R, H, W]
    cosine: Tensor,  # [R, W]
    sine: Tensor,  # [R, W]
) -> Tensor:  # [R, H, W]
    """Each head turned by its row's angles: Su et al., arXiv 2104.09864, halves paired as Llama's.

    Args:
        input: float32 or bfloat16, on the CPU; W is even, its stride 1; other strides are free.
        cosine, sine: of the same dtype, contiguous.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, stride or device; the message names the argument.
    """
    found: Tensor = _rotate(input.detach(), cosine, sine)
    return found


def rotate_reference(input: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:  # noqa: A002
    """What `rotate` computes, in float64 throughout."""
    x = input.double()
    low, high = x.chunk(2, dim=-1)
    return x * cosine.double()[:, None] + torch.cat([-high, low], -1) * sine.double()[:, None]


def gated_silu(
    gate: Tensor,  # [R, D]
    up: Tensor,  # [R, D]
) -> Tensor:  # [R, D]
    """silu(gate) * up: Shazeer, arXiv 2002.05202.

    Args:
        gate, up: float32 or bfloat16, of one dtype, contiguous, on the CPU.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, stride or device; the message names the argument.
    """
    found: Tensor = _gated_silu(gate.detach(), up)
    return found


def gated_silu_reference(gate: Tensor, up: Tensor) -> Tensor:
    """What `gated_silu` computes, in float64 throughout."""
    return functional.silu(gate.double()) * up.double()


def quick_gelu(input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
    """input * sigmoid(1.702 * input): Hendrycks & Gimpel, arXiv 1606.08415.

    Args:
        input: float32 or bfloat16, of any shape, contiguous, on the CPU.

    Raises:
        TypeError, ValueError: a wrong dtype, stride or device.
    """
    found: Tensor = _quick_gelu(input.detach())
    return found


def quick_gelu_reference(input: Tensor) -> Tensor:  # noqa: A002
    """What `quick_gelu` computes, in float64 throughout."""
    x = input.double()
    return x * torch.sigmoid(1.702 * x)


def write_cache(
    keys: Tensor,  # [S, H, T, W]
    values: Tensor,  # [S, H, T, W]
    new_keys: Tensor,  # [B, H, W]
    new_values: Tensor,  # [B, H, W]
    slots: Tensor,  # [B]
    places: Tensor,  # [B]
) -> None:
    """Write one row each of B sequences to their places in a slotted cache.

    Args:
        keys, values: float32 or bfloat16, on the CPU; W's stride is 1, others are free.
        new_keys, new_values: of the same dtype; W's stride is 1, others are free.
        slots, places: int64, in [0, S) and [0, T); no two rows may be of one slot and place.

    Raises:
        RuntimeError: a wrong dtype, shape, stride or value; the message names the argument.
        ValueError: `keys` are not on the CPU.
    """
    _write_cache(keys, values, new_keys.detach(), new_values.detach(), slots, places)


def write_cache_reference(
    keys: Tensor, values: Tensor, new_keys: Tensor, new_values: Tensor, slots: Tensor, places: Tensor
) -> None:
    """What `write_cache` does, by indexing."""
    keys[slots, :, places] = new_keys
    values[slots, :, places] = new_values


def _check_cache(keys: Tensor, *_: Tensor) -> None:
    """What is given is checked by the kernel itself, for this is called once a layer and step."""
    if keys.device.type not in ("cpu", "meta"):
        raise ValueError(f"keys must be on the CPU, but are on {keys.device}")


def _check(name: str, tensor: Tensor, like: Tensor, shape: tuple[int, ...] | None) -> None:
    """Args:
    shape: that a contiguous tensor must have; None: any, of which only the last stride is 1.
    """
    if tensor.device.type not in ("cpu", "meta"):
        raise ValueError(f"{name} must be on the CPU, but is on {tensor.device}")
    if tensor.dtype not in _DTYPES:
        raise TypeError(f"{name} must be float32 or bfloat16, but is {tensor.dtype}")
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on {like.device} as the other is, but is on {tensor.device}")
    if tensor.dtype != like.dtype:
        raise TypeError(f"{name} must be {like.dtype} as the other is, but is {tensor.dtype}")
    if shape is not None and (tensor.shape != shape or not tensor.is_contiguous()):
        raise ValueError(
            f"{name} must be {list(shape)} and contiguous, but its shape is {list(tensor.shape)}, its "
            f"strides are {tensor.stride()}"
        )
    if tensor.dim() and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(
            f"{name} must be contiguous in its last dimension, but its stride is {tensor.stride(-1)}"
        )


def _check_norm(input: Tensor, weight: Tensor, epsilon: float) -> None:  # noqa: A002
    if input.dim() != 2:
        raise ValueError(f"input must be [R, D], but has shape {list(input.shape)}")
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0, but is {epsilon}")
    _check("input", input, input, None)
    _check("weight", weight, input, (input.shape[1],))


def _check_rotate(input: Tensor, cosine: Tensor, sine: Tensor) -> None:  # noqa: A002
    if input.dim() != 3 or input.shape[2] % 2:
        raise ValueError(f"input must be [R, H, W] with an even W, but has shape {list(input.shape)}")
    _check("input", input, input, None)
    for name, tensor in (("cosine", cosine), ("sine", sine)):
        _check(name, tensor, input, (input.shape[0], input.shape[2]))


def _check_gate(gate: Tensor, up: Tensor) -> None:
    if gate.dim() != 2:
        raise ValueError(f"gate must be [R, D], but has shape {list(gate.shape)}")
    _check("gate", gate, gate, tuple(gate.shape))
    _check("up", up, gate, tuple(gate.shape))


def _check_gelu(input: Tensor) -> None:  # noqa: A002
    _check("input", input, input, tuple(input.shape))


_rms_norm: Final = register(
    "rms_norm(Tensor input, Tensor weight, float epsilon) -> Tensor",
    check=_check_norm,
    reference=lambda input, *others: rms_norm_reference(input, *others).to(input.dtype),  # noqa: A006
    fake=lambda input, *_: input.new_empty(input.shape),  # noqa: A006
)
_rotate: Final = register(
    "rotate(Tensor input, Tensor cosine, Tensor sine) -> Tensor",
    check=_check_rotate,
    reference=lambda input, *others: rotate_reference(input, *others).to(input.dtype),  # noqa: A006
    fake=lambda input, *_: input.new_empty(input.shape),  # noqa: A006
)
_gated_silu: Final = register(
    "gated_silu(Tensor gate, Tensor up) -> Tensor",
    check=_check_gate,
    reference=lambda gate, up: gated_silu_reference(gate, up).to(gate.dtype),
    fake=lambda gate, _: gate.new_empty(gate.shape),
)
_quick_gelu: Final = register(
    "quick_gelu(Tensor input) -> Tensor",
    check=_check_gelu,
    reference=lambda input: quick_gelu_reference(input).to(input.dtype),  # noqa: A006
    fake=lambda input: input.new_empty(input.shape),  # noqa: A006
)
_write_cache: Final = register(
    "write_cache(Tensor(a!) keys, Tensor(b!) values, Tensor new_keys, Tensor new_values, Tensor slots, "
    "Tensor places) -> ()",
    check=_check_cache,
    reference=write_cache_reference,
    fake=lambda *_: None,
)
