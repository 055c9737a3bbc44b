"""Products of rows that are rounded to 8 bits: against float64, row by row, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from secondlook.kernels import (
    block_quantised,
    dynamic_linear,
    dynamic_linear_reference,
    library,
    multiplies_bytes,
    quantise,
    quantise_rows,
    set_mode,
    unblock_bytes,
)

DTYPES = (torch.float32, torch.bfloat16)
pytestmark = pytest.mark.skipif(not multiplies_bytes(), reason="this processor has neither VNNI nor AMX")


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert library.status("cpu").source != "reference"


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def held(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """Weights as they are multiplied with, by way of their blocks; and their scales."""
    weights = quantise(drawn(outputs, inputs), 8)
    result = torch.zeros(inputs, outputs, dtype=torch.int8)
    unblock_bytes(block_quantised(weights), result)
    assert torch.equal(result, weights.values.T)
    return result, weights.scales[:, 0].contiguous()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 64, 64), (17, 100, 77), (40, 1000, 130), (65, 2816, 320)])
def test_float64(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, inputs, outputs = shape
    x, bias = drawn(rows, inputs, dtype=dtype), drawn(outputs, dtype=dtype)
    for added in (None, bias):
        given = (x, *held(outputs, inputs), added)
        found, exact = dynamic_linear(*given), dynamic_linear_reference(*given)
        assert found.dtype == dtype
        tolerance = 1e-6 if dtype == torch.float32 else 2.0**-8
        assert (found.double() - exact).abs().max() <= tolerance * exact.abs().max()


def test_it_is_near_to_the_product_that_was_meant() -> None:
    x, (weights, scales) = drawn(64, 1024), held(256, 1024)
    meant = x.double() @ (weights.double() * scales.double())
    apart = (dynamic_linear(x, weights, scales).double() - meant).norm() / meant.norm()
    assert apart < 0.01  # rounding to 255 steps of rows whose largest is some three deviations


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_whatever_the_others(dtype: torch.dtype) -> None:
    x, weights = drawn(33, 512, dtype=dtype), held(200, 512)
    together = dynamic_linear(x, *weights)
    for row in (0, 7, 32):
        assert torch.equal(dynamic_linear(x[row : row + 1], *weights)[0], together[row])


def test_rows_are_rounded_to_the_nearest() -> None:
    x = torch.tensor([[127.0, -127, 0.4, 0.6, 2.5, -3.5], [0, 0, 0, 0, 0, 0], [1e-3, -1e-3, 5e-4, 0, 0, 0]])
    values, scales = quantise_rows(x)
    assert values.tolist() == [[127, -127, 0, 1, 2, -4], [0] * 6, [127, -127, 64, 0, 0, 0]]
    assert scales.tolist() == pytest.approx([1, 0, 1e-3 / 127])
    assert quantise_rows(torch.tensor([[1e-43, -3e-44, 0.0]]))[0].tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_row_with_no_number_has_no_result(wrong: float) -> None:
    x, weights = drawn(3, 64), held(20, 64)
    clean = dynamic_linear(x, *weights)
    x[1, 60] = wrong
    found = dynamic_linear(x, *weights)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], clean[[0, 2]])


def test_rows_may_lie_apart() -> None:
    x, weights = drawn(4, 96), held(20, 96)
    wide = torch.zeros(4, 128)
    wide[:, :96] = x
    assert torch.equal(dynamic_linear(wide[:, :96], *weights), dynamic_linear(x, *weights))


def test_references_give_the_same() -> None:
    x, weights = drawn(5, 96), held(20, 96)
    found, rounded = dynamic_linear(x, *weights), quantise_rows(x)
    set_mode("reference")
    try:
        assert (dynamic_linear(x, *held(20, 96)) - found).abs().max() < 1e-5
        for one, two in zip(quantise_rows(x), rounded, strict=True):
            assert torch.equal(one, two)
    finally:
        set_mode(None)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input": torch.zeros(2, 64).half()}, "input"),
        ({"input": torch.zeros(64, 2).T}, "input"),
        ({"input": torch.zeros(64)}, "input"),
        ({"scales": torch.zeros(19)}, "columns"),
        ({"scales": torch.zeros(20).double()}, "columns"),
        ({"bias": torch.zeros(19)}, "bias"),
        ({"bias": torch.zeros(20).bfloat16()}, "bias"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], named: str) -> None:
    weights, scales = held(20, 64)
    given = {"input": drawn(2, 64), "weights": weights, "scales": scales, "bias": None}
    with pytest.raises(RuntimeError, match=named):
        dynamic_linear(**{**given, **change})


@pytest.mark.parametrize(
    ("blocks", "result", "named"),
    [
        (block_quantised(quantise(drawn(20, 64), 4)), torch.zeros(64, 20, dtype=torch.int8), "weight"),
        (block_quantised(quantise(drawn(20, 64), 8, 32)), torch.zeros(64, 20, dtype=torch.int8), "weight"),
        (block_quantised(quantise(drawn(20, 64), 8)), torch.zeros(63, 20, dtype=torch.int8), "weight"),
        (block_quantised(quantise(drawn(20, 64), 8)), torch.zeros(64, 20), "result"),
        (block_quantised(quantise(drawn(20, 64), 8)), torch.zeros(20, 64, dtype=torch.int8).T, "result"),
    ],
)
def test_blocks_that_do_not_fit_are_named(blocks: Tensor, result: Tensor, named: str) -> None:
    with pytest.raises(RuntimeError, match=named):
        unblock_bytes(blocks, result)
