"""Weights of few bits for tests: of each kind, packed, in float64, and rows to multiply."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from secondlook.kernels import QuantisedWeights, pack_quantised, quantise_float8

DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
KINDS: Final = ("4 bits", "4 bits, no zeros", "8 bits", "8 bits, zeros", "float8")


def weights(
    kind: str = "4 bits", outputs: int = 10, inputs: int = 96, group: int = 32, seed: int = 0
) -> QuantisedWeights:
    """Of each kind; scales are of float16's precision, and differ by far more than two groups' weights."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "float8":
        found = quantise_float8(torch.randn(outputs, inputs, generator=generator))
        return QuantisedWeights(found.values, found.scales.half().float(), None, 8)
    groups = inputs // group
    bits = 4 if kind.startswith("4") else 8
    half = 2 ** (bits - 1)
    values = torch.randint(-half, half, (outputs, inputs), generator=generator, dtype=torch.int8)
    scales = (torch.randn(outputs, groups, generator=generator).exp() * 0.01).half().float()
    zeros = torch.randint(-half, half, (outputs, groups), generator=generator).float()
    return QuantisedWeights(values, scales, None if kind in KINDS[1:3] else zeros, bits)  # type: ignore[arg-type]


def rows(
    count: int, inputs: int, dtype: torch.dtype, device: torch.device | str = "cpu", seed: int = 1
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, inputs, generator=generator).to(dtype).to(device)


def some_bias(outputs: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    return torch.randn(outputs, generator=torch.Generator().manual_seed(2)).to(dtype).to(device)


def packed(of: QuantisedWeights, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    values, scales = pack_quantised(of)
    return values.to(device), scales.to(device)


def weight_in_float64(of: QuantisedWeights) -> Tensor:
    """One output and group at a time."""
    weight = torch.zeros(of.values.shape, dtype=torch.float64)
    for n in range(len(weight)):
        for g in range(of.scales.shape[1]):
            part = slice(g * of.group, (g + 1) * of.group)
            zero = 0.0 if of.zeros is None else float(of.zeros[n, g])
            weight[n, part] = (of.values[n, part].double() - zero) * float(of.scales[n, g])
    return weight
