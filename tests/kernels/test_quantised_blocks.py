"""Weights of few bits in blocks, and a few rows times them: float64, bits, and what is refused."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch.nn.functional import linear

from secondlook.kernels import (
    QuantisedWeights,
    block_quantised,
    block_weights,
    blocked_linear,
    blocked_linear_reference,
    dequantise_blocks,
    library,
    quantise,
    unblock_quantised,
)

DTYPES = (torch.float32, torch.bfloat16)
EPSILON = {torch.float32: 3e-6, torch.bfloat16: 2.0**-8}
"""Of the sum of the products' sizes; in bfloat16 rounding the result alone is half of that."""
KINDS: tuple[tuple[Literal[4, 8], int], ...] = ((4, 32), (4, 8), (4, 1536), (8, 1536), (8, 32), (8, 3))


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert library.status("cpu").source != "reference"


def drawn(
    outputs: int, inputs: int, bits: Literal[4, 8], group: int, *, zeros: bool = True
) -> QuantisedWeights:
    """Of values and zeros that reach as far as they may."""
    generator = torch.Generator().manual_seed(outputs + inputs)
    least, most, groups = -(2 ** (bits - 1)), 2 ** (bits - 1), inputs // min(group, inputs)
    values = torch.randint(least, most, (outputs, inputs), generator=generator, dtype=torch.int8)
    scales = torch.rand(outputs, groups, generator=generator) / most
    offsets = torch.randint(least, most, (outputs, groups), generator=generator).float()
    return QuantisedWeights(values, scales, offsets if zeros else None, bits)


@pytest.mark.parametrize(("bits", "group"), KINDS)
@pytest.mark.parametrize("outputs", [1, 64, 200])
def test_blocks_hold_the_weights(outputs: int, bits: Literal[4, 8], group: int) -> None:
    for zeros in (False, True):
        given = drawn(outputs, 96, bits, group, zeros=zeros)
        blocks = block_quantised(given)
        found = unblock_quantised(blocks, outputs, 96)
        assert torch.equal(found.values, given.values)
        torch.testing.assert_close(found.scales, given.scales, rtol=2.0**-16, atol=0)
        assert found.bits == bits
        if given.zeros is None:
            assert found.zeros is None
        else:
            assert found.zeros is not None
            assert torch.equal(found.zeros, given.zeros)
        assert torch.equal(block_quantised(found), blocks)
        groups = given.scales.numel()
        assert (
            blocks.nbytes
            <= (given.values.numel() * bits // 8 + 4 * groups) * -(-outputs // 64) * 64 / outputs
        )


def test_scales_of_16_bits_are_exact() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        scales = (torch.rand(64, 3) * torch.logspace(-2, 0, 64)[:, None]).to(dtype).float()
        values = torch.zeros(64, 96, dtype=torch.int8)
        found = unblock_quantised(block_quantised(QuantisedWeights(values, scales, None, 4)), 64, 96)
        assert torch.equal(found.scales, scales)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("bits", "group"), KINDS)
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [(1, 96, 64), (2, 192, 1), (3, 96, 130), (4, 1536, 100), (9, 288, 200), (0, 96, 8)],
)
def test_float64(
    dtype: torch.dtype, bits: Literal[4, 8], group: int, rows: int, inputs: int, outputs: int
) -> None:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, inputs, generator=generator).to(dtype)
    bias = torch.randn(outputs, generator=generator).to(dtype)
    for zeros in (False, True):
        blocks = block_quantised(drawn(outputs, inputs, bits, group, zeros=zeros))
        weight = unblock_quantised(blocks, outputs, inputs).dequantised(torch.float64)
        for added in (None, bias):
            found = blocked_linear(x, blocks, added, outputs)
            both = (None, None) if added is None else (added.double(), added.double().abs())
            exact = linear(x.double(), weight, both[0])
            torch.testing.assert_close(blocked_linear_reference(x, blocks, added, outputs), exact)
            most = linear(x.double().abs(), weight.abs(), both[1])
            assert found.dtype == dtype
            assert ((found.double() - exact).abs() <= EPSILON[dtype] * most).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("inputs", [1, 33, 515])
def test_an_odd_number_of_inputs_is_one_group(inputs: int, bits: Literal[4, 8], dtype: torch.dtype) -> None:
    weights = quantise(torch.randn(70, inputs, generator=torch.Generator().manual_seed(1)), bits, inputs)
    x = torch.full((7, inputs + 5), float("nan"), dtype=dtype)  # nothing beside the rows is read
    x[:, :inputs] = torch.randn(7, inputs, generator=torch.Generator().manual_seed(2))
    found = blocked_linear(x[:, :inputs], block_quantised(weights), None, 70)
    weight = weights.dequantised(torch.float64)
    most = linear(x[:, :inputs].double().abs(), weight.abs())
    exact = linear(x[:, :inputs].double(), weight)
    assert ((found.double() - exact).abs() <= (EPSILON[dtype] + 2.0**-16) * most).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("bits", "group", "inputs"),
    [(4, 32, 1536), (8, 1536, 1536), (8, 96, 1536), (8, 3, 1536), (8, 771, 1542), (8, 771, 771)],
)
def test_a_row_has_the_same_bits_whatever_the_others_and_the_threads(
    bits: Literal[4, 8], group: int, inputs: int, dtype: torch.dtype
) -> None:
    blocks, threads = block_quantised(drawn(190, inputs, bits, group)), torch.get_num_threads()
    x = torch.randn(17, inputs, generator=torch.Generator().manual_seed(3)).to(dtype)
    alone = torch.cat([blocked_linear(row[None], blocks, None, 190) for row in x])
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for rows in (1, 3, 4, 5, 7, 8, 14, 17):
                assert torch.equal(blocked_linear(x[:rows], blocks, None, 190), alone[:rows])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 8])
def test_what_is_not_finite_stays_in_its_row(bits: Literal[4, 8], dtype: torch.dtype) -> None:
    x = torch.zeros(5, 96, dtype=dtype)
    x[1, 3], x[4, 0] = float("nan"), float("inf")
    found = blocked_linear(x, block_quantised(drawn(30, 96, bits, 32)), None, 30)
    assert found.isfinite().all(-1).tolist() == [True, False, True, True, False]


def test_refuses_weights_that_have_no_blocks() -> None:
    values, scales = torch.zeros(4, 66, dtype=torch.int8), torch.ones(4, 2)
    for zero in (0.5, 128.0, -129.0, float("nan")):
        with pytest.raises(ValueError, match="zeros must be whole numbers"):
            block_quantised(QuantisedWeights(values, scales, torch.full((4, 2), zero), 4))
    with pytest.raises(ValueError, match="scale is NaN"):
        block_quantised(QuantisedWeights(values, scales * float("inf"), None, 8))
    with pytest.raises(ValueError, match="even number of inputs, but are of 33"):
        block_quantised(QuantisedWeights(values, scales, None, 4))
    with pytest.raises(ValueError, match=r"values must be int8, but are torch\.float8_e4m3fn"):
        block_quantised(QuantisedWeights(values.float().to(torch.float8_e4m3fn), scales, None, 8))


BLOCKS = block_quantised(drawn(64, 96, 4, 32))


@pytest.mark.parametrize(
    "change",
    [
        {"input": torch.zeros(2, 95)},
        {"input": torch.zeros(2, 97)},
        {"outputs": 65},
        {"weight": BLOCKS.view(torch.int8)},
        {"weight": BLOCKS[..., :32]},
        {"weight": BLOCKS[:, ::2]},
        {"weight": BLOCKS[0]},
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any]) -> None:
    given = {"input": torch.zeros(2, 96), "weight": BLOCKS, "bias": None, "outputs": 64} | change
    with pytest.raises(ValueError, match="weight"):
        blocked_linear(**given)
    if given["weight"].dim() == 4 and given["weight"].is_contiguous():
        with pytest.raises(RuntimeError, match="weight"):
            torch.ops.secondlook.blocked_linear.default.redispatch(
                torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *given.values()
            )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 32, 48, 64])
@pytest.mark.parametrize(("bits", "group"), [*KINDS, (4, 99), (8, 99)])
def test_blocks_become_floats(bits: Literal[4, 8], group: int, width: int, dtype: torch.dtype) -> None:
    inputs = 99 if group in (3, 99) else 96
    blocks = block_quantised(drawn(200, inputs, bits, group))
    expected = block_weights(unblock_quantised(blocks, 200, inputs).dequantised(dtype), width)
    found = torch.full((len(expected), expected.shape[1] + 3, *expected.shape[2:]), 7.0, dtype=dtype)
    apart = torch.zeros_like(expected)
    dequantise_blocks(blocks, inputs, found)
    dequantise_blocks(blocks, inputs, apart)
    assert torch.equal(apart, expected)
    assert (found[:, expected.shape[1] :] == 7).all()


def test_blocks_that_do_not_fit_are_refused() -> None:
    for result in (
        torch.zeros(1, 95, 64, 1),
        torch.zeros(1, 96, 64),
        torch.zeros(1, 96, 64, 1, dtype=torch.float64),
        torch.zeros(1, 96, 64, 1, dtype=torch.bfloat16),
        torch.zeros(2, 96, 64, 1)[:, :, ::2],
        torch.zeros(0, 96, 64, 1),
    ):
        with pytest.raises(RuntimeError, match="result"):
            dequantise_blocks(BLOCKS, 96, result)
    with pytest.raises(RuntimeError, match="weight"):
        dequantise_blocks(torch.zeros(1, 96, 64, 1), 96, torch.zeros(1, 96, 64, 1))
