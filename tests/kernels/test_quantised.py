"""Weights of few bits, against float64."""

from typing import Literal

import pytest
import torch

from secondlook.kernels import QuantisedWeights, quantise, quantise_float8


@pytest.mark.parametrize(
    ("bits", "group", "steps"), [(8, None, 254), (8, 32, 254), (4, None, 15), (4, 64, 15)]
)
def test_a_weight_moves_by_half_a_step_at_most(bits: Literal[4, 8], group: int | None, steps: int) -> None:
    weight = torch.randn(48, 128, generator=torch.Generator().manual_seed(0))
    found = quantise(weight, bits, group)
    grouped = weight.double().unflatten(1, (-1, found.group))
    span = (
        2 * grouped.abs().amax(-1)
        if bits == 8
        else grouped.amax(-1).clamp(min=0) - grouped.amin(-1).clamp(max=0)
    )
    apart = (found.dequantised(torch.float64).unflatten(1, (-1, found.group)) - grouped).abs().amax(-1)
    # a zero that is rounded moves the ends of 4 bits by half a step more
    assert (apart <= span / steps * (0.5001 if bits == 8 else 1.0001)).all()
    least, most = (-127, 127) if bits == 8 else (-8, 7)
    assert found.values.min() >= least
    assert found.values.max() <= most


@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_stay_zeros(bits: Literal[4, 8]) -> None:
    weight = torch.randn(4, 64)
    weight[1] = 0
    weight[2, ::3] = 0
    weight[3].abs_()
    found = quantise(weight, bits, 32).dequantised()
    assert (found[weight == 0] == 0).all()
    assert (found[0] != 0).any()


def test_what_is_on_the_grid_stays() -> None:
    values = torch.randint(-8, 8, (16, 64), dtype=torch.int8)
    values[:, ::32], values[:, 1::32] = -8, 7
    weights = QuantisedWeights(values, torch.full((16, 2), 0.25), torch.full((16, 2), 3.0), 4)
    again = quantise(weights.dequantised(), 4, 32)
    assert torch.equal(again.values, values)
    assert again.zeros is not None
    assert torch.equal(again.zeros, torch.full((16, 2), 3.0))


def test_floats_of_8_bits_are_off_by_a_16th_of_a_weight_at_most() -> None:
    weight = torch.randn(48, 128, generator=torch.Generator().manual_seed(0))
    weight[3], weight[4, ::2] = 0, 0
    found = quantise_float8(weight)
    assert found.values.dtype == torch.float8_e4m3fn
    assert (found.group, found.bits, found.zeros) == (128, 8, None)
    apart = (found.dequantised(torch.float64) - weight.double()).abs()
    subnormal = weight.double().abs().amax(1, keepdim=True) / 448 * 2.0**-10  # half of a step among them
    assert (apart <= torch.maximum(weight.double().abs() * 1.0001 / 16, subnormal * 1.0001)).all()
    assert (found.dequantised()[weight == 0] == 0).all()
    assert (found.values.float().abs().amax(1) == torch.where(weight.abs().amax(1) > 0, 448.0, 0.0)).all()


def test_refuses_what_does_not_fit() -> None:
    values, scales = torch.zeros(4, 64, dtype=torch.int8), torch.ones(4, 2)
    with pytest.raises(ValueError, match="whole number of groups of 48"):
        quantise(torch.ones(4, 64), 4, 48)
    with pytest.raises(ValueError, match="NaN"):
        quantise(torch.full((4, 64), float("nan")), 8)
    with pytest.raises(ValueError, match="NaN"):
        quantise_float8(torch.full((4, 64), float("inf")))
    with pytest.raises(ValueError, match="int8 or float8_e4m3fn"):
        QuantisedWeights(values.int(), scales, None, 8)
    floats = values.float().to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="8 bits and no zeros, not 4 bits"):
        QuantisedWeights(floats, scales, None, 4)
    with pytest.raises(ValueError, match="8 bits and no zeros"):
        QuantisedWeights(floats, scales, torch.zeros(4, 2), 8)
    for bad in (torch.ones(3, 2), torch.ones(4, 3), torch.ones(4, 2).double(), torch.ones(4, 0)):
        with pytest.raises(ValueError, match="scales"):
            QuantisedWeights(values, bad, None, 8)
    with pytest.raises(ValueError, match="zeros"):
        QuantisedWeights(values, scales, torch.ones(4, 1), 4)
