"""Weights of few bits, as arithmetic: whole numbers, or floats of 8 bits, with a scale and a zero for each
group of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

__all__ = ["QuantisedWeights", "quantise", "quantise_float8"]

_FLOAT8: Final = torch.float8_e4m3fn


@dataclass(frozen=True, eq=False)
class QuantisedWeights:
    """The weights of a linear layer, (values - zeros) x scales.

    Attributes:
        values: int8 [outputs, inputs]; of 4 bits from -8 to 7, of 8 from -128 to 127. Or float8_e4m3fn, of 8
            bits and without zeros.
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
        if self.values.dtype not in (torch.int8, _FLOAT8) or self.values.dim() != 2:
            raise ValueError(f"values are int8 or float8_e4m3fn [outputs, inputs], not {_told(self.values)}")
        if self.values.dtype == _FLOAT8 and (self.bits != 8 or self.zeros is not None):
            told = "zeros" if self.bits == 8 else f"{self.bits} bits"
            raise ValueError(f"values of float8_e4m3fn have 8 bits and no zeros, not {told}")
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
        scales = _rounded(grouped.abs().amax(-1) / 127)
        zeros = None
        moved = grouped / _divisor(scales)[..., None]
        values = moved.round().clamp_(-127, 127)
    else:
        least, most = grouped.amin(-1).clamp_(max=0), grouped.amax(-1).clamp_(min=0)
        scales = _rounded((most - least) / 15)
        zeros = (-8 - least / _divisor(scales)).round_().clamp_(-8, 7)
        values = (grouped / _divisor(scales)[..., None] + zeros[..., None]).round_().clamp_(-8, 7)
    return QuantisedWeights(values.to(torch.int8).view(outputs, inputs), scales, zeros, bits)


def quantise_float8(weight: Tensor) -> QuantisedWeights:
    """Round weights to floats of 8 bits (E4M3 of arXiv 2209.05433), each output's largest to their largest.

    Args:
        weight: [outputs, inputs], of any floating type; finite.

    Raises:
        ValueError: a weight is not finite.
    """
    if not torch.isfinite(weight).all():
        raise ValueError("a weight is NaN or infinite")
    weight = weight.detach().float()
    scales = _rounded(weight.abs().amax(1, keepdim=True) / torch.finfo(_FLOAT8).max)
    return QuantisedWeights((weight / _divisor(scales)).to(_FLOAT8), scales, None, 8)


def scale_words(weights: QuantisedWeights) -> Tensor:
    """int32 [outputs, groups]: from the highest bit on a scale in float32 without the last 8 bits of its
    significand, to which it is rounded, and the zero + 128.

    Every scale that was float16 or bfloat16 once is exact, and so is its product with a zero.

    Raises:
        ValueError: zeros that are not whole numbers from -128 to 127, or a scale that is not finite.
    """
    zeros = torch.zeros_like(weights.scales) if weights.zeros is None else weights.zeros
    if not bool(((zeros == zeros.round()) & (zeros >= -128) & (zeros <= 127)).all()):
        raise ValueError("zeros must be whole numbers from -128 to 127")
    if not bool(torch.isfinite(weights.scales).all()):
        raise ValueError("a scale is NaN or infinite")
    return (weights.scales.view(torch.int32) + 0x80 & ~0xFF) | (zeros.int() + 128)


def scales_and_zeros(words: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32, of `scale_words`."""
    return (words & ~0xFF).view(torch.float32), (words & 0xFF).float() - 128


def _rounded(scales: Tensor) -> Tensor:
    """To the 16 bits of significand that `scale_words` keeps, so that weights are the same everywhere."""
    return (scales.view(torch.int32) + 0x80 & ~0xFF).view(torch.float32)


def _divisor(scales: Tensor) -> Tensor:
    """Where all weights of a group are 0, so is their scale, and any divisor gives 0."""
    return torch.where(scales > 0, scales, 1.0)


def _told(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
