"""Weights of few bits as CUDA's kernels read them, and products of floats of 8 bits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.low_bit import weight_in_float64
from secondlook.kernels import (
    QuantisedWeights,
    pack_quantised,
    quantise,
    quantised_linear_reference,
)


def test_packed_values_lie_as_documented() -> None:
    values = torch.arange(-8, 8, dtype=torch.int8)[None]
    found, words = pack_quantised(QuantisedWeights(values, torch.tensor([[0.5]]), torch.tensor([[-3.0]]), 4))
    assert found.dtype == torch.uint8
    assert found.tolist() == [[0x98, 0xBA, 0xDC, 0xFE, 0x10, 0x32, 0x54, 0x76]]
    assert words.dtype == torch.int32
    assert words.tolist() == [[0x3F000000 | 125]]


@pytest.mark.parametrize("bits", [4, 8])
def test_scales_lose_no_more_than_16_bits_of_significand_do(bits: Any) -> None:
    own = quantise(torch.randn(8, 64), bits, 16)
    exact = quantised_linear_reference(torch.eye(64), *pack_quantised(own), None).T
    assert torch.equal(exact, weight_in_float64(own))  # rounding gives none but such
    of = QuantisedWeights(own.values, own.scales * (1 + 2.0**-20), own.zeros, bits)
    moved = weight_in_float64(of)
    kept = quantised_linear_reference(torch.eye(64), *pack_quantised(of), None).T
    assert ((kept - moved).abs() <= 2.0**-16 * moved.abs()).all()
    assert (kept != moved).any()
    half = QuantisedWeights(of.values, of.scales.bfloat16().float(), of.zeros, of.bits)
    assert torch.equal(pack_quantised(half)[1] & ~0xFF, half.scales.view(torch.int32))


def test_what_cannot_be_packed_is_refused() -> None:
    def of(values: Tensor, scale: float = 1.0, zero: float = 0.0, groups: int = 1) -> QuantisedWeights:
        scales = torch.full((len(values), groups), scale)
        return QuantisedWeights(values, scales, torch.full_like(scales, zero), 8)

    zeros = torch.zeros(2, 32, dtype=torch.int8)
    for groups, inputs in ((4, 32), (1, 20), (1, 2**19)):
        with pytest.raises(ValueError, match=rf"groups of {inputs // groups} of {inputs} inputs"):
            pack_quantised(of(zeros.new_zeros(1, inputs), groups=groups))
    for zero in (0.5, 128.0, -129.0, math.nan):
        with pytest.raises(ValueError, match="whole numbers from -128 to 127"):
            pack_quantised(of(zeros, zero=zero))
    with pytest.raises(ValueError, match="a scale is NaN or infinite"):
        pack_quantised(of(zeros, scale=math.inf))
    for sign in (1.0, -1.0):
        nan = torch.full((2, 32), math.copysign(math.nan, sign)).to(torch.float8_e4m3fn)
        with pytest.raises(ValueError, match="a value is NaN"):
            pack_quantised(QuantisedWeights(nan, torch.ones(2, 1), None, 8))
