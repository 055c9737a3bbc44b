"""A few rows times weights in blocks: float64, padding, bits, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import linear, pad

from secondlook.kernels import block_weights, blocked_linear, blocked_linear_reference, library

DTYPES = (torch.float32, torch.bfloat16)
EPSILON = {torch.float32: 1e-6, torch.bfloat16: 2.0**-8}
"""Of the sum of the products' sizes; in bfloat16 rounding the result alone is half of that."""


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert library.status("cpu").source != "reference"


def rows_and_weights(
    rows: int, inputs: int, outputs: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows + inputs)
    shapes = ((rows, inputs), (outputs, inputs), (outputs,))
    x, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return x, weight, bias


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 32, 48, 64])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [(1, 64, 64), (2, 1, 1), (3, 33, 130), (4, 1024, 100), (5, 515, 16), (17, 96, 200), (0, 8, 8)],
)
def test_float64(dtype: torch.dtype, width: int, rows: int, inputs: int, outputs: int) -> None:
    x, weight, bias = rows_and_weights(rows, inputs, outputs, dtype)
    blocks = block_weights(weight, width)
    for added in (None, bias):
        found = blocked_linear(x, blocks, added, outputs)
        exact = linear(x.double(), weight.double(), None if added is None else added.double())
        torch.testing.assert_close(blocked_linear_reference(x, blocks, added, outputs), exact)
        most = linear(x.double().abs(), weight.double().abs(), None if added is None else bias.double().abs())
        assert found.dtype == dtype
        assert ((found.double() - exact).abs() <= EPSILON[dtype] * most).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_whatever_the_others_and_the_threads(dtype: torch.dtype) -> None:
    x, weight, bias = rows_and_weights(9, 700, 190, dtype)
    blocks, threads = block_weights(weight), torch.get_num_threads()
    together = blocked_linear(x, blocks, bias, 190)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for row in range(9):
                assert torch.equal(blocked_linear(x[row : row + 1], blocks, bias, 190)[0], together[row])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_may_lie_apart_and_blocks_have_more_pairs(dtype: torch.dtype) -> None:
    x, weight, _ = rows_and_weights(3, 70, 64, dtype)
    apart = torch.full((3, 90), float("nan"), dtype=dtype)
    apart[:, :70] = x
    longer = block_weights(pad(weight, (0, 10)))
    expected = blocked_linear(x, block_weights(weight), None, 64)
    assert torch.equal(blocked_linear(apart[:, :70], longer, None, 64), expected)


def test_what_is_not_finite_stays_in_its_row() -> None:
    x, weight, _ = rows_and_weights(5, 40, 30, torch.float32)
    x[1, 3], x[4, 0] = float("nan"), float("inf")
    found = blocked_linear(x, block_weights(weight), None, 30)
    assert found.isfinite().all(-1).tolist() == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"input": torch.zeros(2, 3, 4)}, ValueError, "input"),
        ({"input": torch.zeros(4, 2).T[:, ::1]}, ValueError, "input"),
        ({"input": torch.zeros(2, 64, dtype=torch.float64)}, TypeError, "input"),
        ({"input": torch.zeros(2, 65)}, ValueError, "weight"),
        ({"weight": torch.zeros(1, 64, 8, 1)}, ValueError, "weight"),
        ({"weight": torch.zeros(1, 64, 64, 1, dtype=torch.bfloat16)}, TypeError, "weight"),
        ({"outputs": 65}, ValueError, "weight"),
        ({"bias": torch.zeros(63)}, ValueError, "bias"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], error: type[Exception], named: str) -> None:
    given = {
        "input": torch.zeros(2, 64),
        "weight": block_weights(torch.zeros(64, 64)),
        "bias": None,
        "outputs": 64,
    }
    with pytest.raises(error, match=named):
        blocked_linear(**{**given, **change})


def test_the_kernel_itself_refuses_what_does_not_fit() -> None:
    blocks = block_weights(torch.zeros(64, 64))
    with pytest.raises(RuntimeError, match="weight must have at least 65 pairs"):
        torch.ops.secondlook.blocked_linear.default.redispatch(
            torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), torch.zeros(2, 65), blocks, None, 64
        )
