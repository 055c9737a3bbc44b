"""Weights of few bits, as arithmetic: whole numbers, with a scale and a zero for each group of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["QuantisedWeights", "quantise"]


@dataclass(frozen=True, eq=False)
class QuantisedWeights:
    """The weights of a linear layer, (values - zeros) x scales.

    Attributes:
        values: int8 [outputs, inputs]; of 4 bits from -8 to 7, of 8 from -128 to 127.
        scales: float32 [outputs, groups]; each is of inputs / groups inputs that follow each other.
        zeros: float32 [outputs, groups], in units of the values; None: all are 0.
        bits: of a value.

    Raises:
        ValueError: sizes that contradict each other, or values of another type.
    """

    values: Tensor
    scales: Tensor
    zeros: Tensor | None
    bits: Literal[4, 8]

    def __post_init__(self) -> None:
        if self.values.dtype != torch.int8 or self.values.dim() != 2:
            raise ValueError(f"values are int8 [outputs, inputs], not {_told(self.values)}")
        outputs, inputs = self.values.shape
        for name, each in (("scales", self.scales), ("zeros", self.zeros)):
            if each is None:
                continue
            if each.dtype != torch.float32 or each.dim() != 2 or len(each) != outputs:
                raise ValueError(f"{name} are float32 [{outputs}, groups], not {_told(each)}")
            if each.shape != self.scales.shape or not each.shape[1] or inputs % each.shape[1]:
                raise ValueError(f"{name} {tuple(each.shape)} do not fit {inputs} inputs")

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.values.shape[1] // self.scales.shape[1]

    def dequantised(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """[outputs, inputs], computed in float32 and rounded once."""
        values = self.values.float().view(len(self.values), -1, self.group)
        if self.zeros is not None:
            values = values - self.zeros[..., None]
        return torch.mul(values, self.scales[..., None]).flatten(1).to(dtype)


def quantise(weight: Tensor, bits: Literal[4, 8], group: int | None = None) -> QuantisedWeights:
    """Round weights to the nearest of few values.

    8 bits are symmetric about 0, from -127 to 127. 4 bits reach from a group's smallest weight, or 0, to its
    largest, or 0, so that a weight of 0 stays one.

    Args:
        weight: [outputs, inputs], of any floating type; finite.
        group: inputs that share a scale; by default all of an output's for 8 bits, 32 for 4.

    Raises:
        ValueError: the group does not divide the inputs, or a weight is not finite.
    """
    outputs, inputs = weight.shape
    group = (inputs if bits == 8 else 32) if group is None else group
    if group < 1 or inputs % group:
        raise ValueError(f"{inputs} inputs are no whole number of groups of {group}")
    if not torch.isfinite(weight).all():
        raise ValueError("a weight is NaN or infinite")
    grouped = weight.detach().float().reshape(outputs, -1, group)
    if bits == 8:
        scales = grouped.abs().amax(-1) / 127
        zeros = None
        moved = grouped / _divisor(scales)[..., None]
        values = moved.round().clamp_(-127, 127)
    else:
        least, most = grouped.amin(-1).clamp_(max=0), grouped.amax(-1).clamp_(min=0)
        scales = (most - least) / 15
        zeros = (-8 - least / _divisor(scales)).round_().clamp_(-8, 7)
        values = (grouped / _divisor(scales)[..., None] + zeros[..., None]).round_().clamp_(-8, 7)
    return QuantisedWeights(values.to(torch.int8).view(outputs, inputs), scales, zeros, bits)


def _divisor(scales: Tensor) -> Tensor:
    """Where all weights of a group are 0, so is their scale, and any divisor gives 0."""
    return torch.where(scales > 0, scales, 1.0)


def _told(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
