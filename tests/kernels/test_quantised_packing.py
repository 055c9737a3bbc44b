"""Weights of few bits as CUDA's kernels read them, and products of floats of 8 bits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.low_bit import DTYPES, packed, rows, some_bias, weight_in_float64, weights
from secondlook.kernels import (
    QuantisedWeights,
    float8_linear,
    multiplies_float8,
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


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("biased", [False, True])
def test_float8_linear_rounds_rows_and_no_more(device: str, dtype: torch.dtype, biased: bool) -> None:
    if device == "cuda" and not multiplies_float8(torch.device(device)):
        pytest.skip("this GPU multiplies no floats of 8 bits")
    of = weights("float8", 48, 160)
    input = rows(20, 160, dtype, device) * torch.linspace(0, 100, 20, device=device)[:, None].to(dtype)  # noqa: A001
    bias = some_bias(48, dtype, device) if biased else None
    found = float8_linear(input, *packed(of, device), bias)
    x = input.cpu().double()
    largest = x.abs().amax(1, keepdim=True).float() / 448
    rounded = (x.float() / largest.clamp(min=1e-30)).to(torch.float8_e4m3fn).double() * largest
    weight, added = weight_in_float64(of), 0.0 if bias is None else bias.cpu().double()
    exact, size = rounded @ weight.T + added, rounded.abs() @ weight.abs().T + 1.0
    assert found.dtype == dtype
    # cuBLAS sums in fewer bits than float32 has
    assert ((found.cpu().double() - exact).abs() <= (torch.finfo(dtype).eps + 2.0**-12) * size).all()
    if device == "cpu":
        assert ((found.double() - exact).abs() <= torch.finfo(dtype).eps * size).all()


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((8, 0), False), ((8, 7), False), ((8, 9), True), ((9, 0), True), ((12, 0), True)],
)
def test_which_gpus_multiply_float8(
    capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert multiplies_float8(torch.device("cuda", 1)) is expected
    assert not multiplies_float8(torch.device("cpu"))


def test_float8_linear_says_what_it_cannot_multiply() -> None:
    of = weights("float8", 24, 160)
    for values, scales in (pack_quantised(of), pack_quantised(weights("8 bits", 32, 160, 160))):
        with pytest.raises(
            ValueError, match="multiples of 16 outputs and inputs, and have a scale an output"
        ):
            float8_linear(torch.zeros(20, 160), values, scales, None)
