"""Products of whole numbers of 8 bits, for which processors have instructions twice as fast as those for
bfloat16: activations are rounded, too, row by row when they are there ("dynamic").

    values, scales = quantise_rows(input);  result = (values x weights) * scales * columns + bias

PyTorch multiplies the whole numbers (oneDNN); what stands around that are operators, each in one pass.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from secondlook.kernels.operators import register
from secondlook.kernels.quantised_blocks import unblock_quantised

__all__ = ["dynamic_linear", "dynamic_linear_reference", "multiplies_bytes", "quantise_rows", "unblock_bytes"]


def multiplies_bytes() -> bool:
    """Whether this processor multiplies whole numbers of 8 bits, without any sum being cut off."""
    return bool(torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported())


def dynamic_linear(
    input: Tensor,  # noqa: A002 -- torch's name; [R, inputs]
    weights: Tensor,  # [inputs, outputs]
    scales: Tensor,  # [outputs]
    bias: Tensor | None = None,  # [outputs]
) -> Tensor:  # [R, outputs]
    """A linear layer whose inputs are rounded to 8 bits. A row's result depends on no other row.

    Args:
        input: float32 or bfloat16, on the CPU, its last stride 1; a row with a NaN or infinity gives NaN.
        weights: int8, see `unblock_bytes`.
        scales: float32; each is of an output's weights.
        bias: of the dtype of `input`.

    Raises:
        RuntimeError, ValueError: a wrong dtype, shape, stride or device; the message names the argument.
    """
    values, rows = quantise_rows(input)
    products = torch._int_mm(values, weights)
    found: Tensor = _scale_products(products, rows, scales, bias, input.dtype)
    return found


def dynamic_linear_reference(
    input: Tensor,  # noqa: A002
    weights: Tensor,
    scales: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """What `dynamic_linear` computes, in float64 but for the rounding of its inputs."""
    values, rows = _quantise_reference(input)
    result = values.double() @ weights.double() * rows.double()[:, None] * scales.double()
    return result if bias is None else result + bias.double()


def quantise_rows(
    input: Tensor,  # noqa: A002 -- torch's name; [R, D]
) -> tuple[Tensor, Tensor]:
    """Whole numbers int8 [R, D] from -127 to 127, and float32 [R], what a row's are multiples of: its
    largest is 127, unless they would be of a subnormal number: then all are 0. Of a row with a NaN or
    infinity what they are multiples of is no number, or infinite.

    Raises:
        RuntimeError, ValueError: a wrong dtype, shape, stride or device; the message names the argument.
    """
    found: tuple[Tensor, Tensor] = _quantise_rows(input.detach())
    return found


def unblock_bytes(
    weight: Tensor,  # [blocks, 1, 4 + inputs, 64]
    result: Tensor,  # [inputs, outputs]
) -> None:
    """Write weights' values as `dynamic_linear` takes them.

    Args:
        weight: int8, as `block_quantised` gives it of 8 bits and one group.
        result: int8, contiguous.

    Raises:
        RuntimeError, ValueError: a wrong dtype, shape or device; the message names the argument.
    """
    _unblock_bytes(weight, result)


def _quantise_reference(input: Tensor) -> tuple[Tensor, Tensor]:  # noqa: A002
    x = input.float()
    scales = x.abs().amax(1) / 127
    divisor = torch.where(scales >= torch.finfo(scales.dtype).tiny, scales, 1.0)
    values = (x / divisor[:, None]).round().nan_to_num(0).clamp(-127, 127)
    return values.to(torch.int8), scales


def _unblock_reference(weight: Tensor, result: Tensor) -> None:
    inputs, outputs = result.shape
    result.copy_(unblock_quantised(weight, outputs, inputs).values.T)


def _scale_reference(
    products: Tensor, rows: Tensor, columns: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    result = products.float() * rows[:, None] * columns
    return (result if bias is None else result + bias.float()).to(dtype)


def _check(tensor: Tensor, *_: object) -> None:
    """What is given is checked by the kernels themselves."""
    if tensor.device.type not in ("cpu", "meta"):
        raise ValueError(f"{tensor.device} has no such operator; it is for the CPU")


def _rounded_fake(input: Tensor) -> tuple[Tensor, Tensor]:  # noqa: A002
    return input.new_empty(input.shape, dtype=torch.int8), input.new_empty(len(input), dtype=torch.float32)


def _scaled_fake(products: Tensor, rows: Tensor, columns: Tensor, bias: Any, dtype: torch.dtype) -> Tensor:
    return products.new_empty(products.shape, dtype=dtype)


_quantise_rows: Final = register(
    "quantise_rows(Tensor input) -> (Tensor, Tensor)",
    check=_check,
    reference=_quantise_reference,
    fake=_rounded_fake,
)
_unblock_bytes: Final = register(
    "unblock_bytes(Tensor weight, Tensor(a!) result) -> ()",
    check=_check,
    reference=_unblock_reference,
    fake=lambda *_: None,
)
_scale_products: Final = register(
    "scale_products(Tensor products, Tensor rows, Tensor columns, Tensor? bias, ScalarType dtype) -> Tensor",
    check=_check,
    reference=_scale_reference,
    fake=_scaled_fake,
)
