"""What layers do to many rows: float64, PyTorch's own layers, bits, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from secondlook.kernels import (
    ENCODER_WEIGHTS,
    MLP_WEIGHTS,
    block_weights,
    encoder_layers,
    encoder_layers_reference,
    library,
    norm_linears,
    norm_linears_reference,
    output_mlp,
    output_mlp_reference,
)

DTYPES = (torch.float32, torch.bfloat16)
APART = {torch.float32: 1e-5, torch.bfloat16: 0.02}
"""Of the largest value: in bfloat16 norms and what lies between products are rounded, too."""
SIZE, MIXED, INNER, EPSILON = 70, 96, 130, 1e-5
OUTPUTS = (64, 30, 200)
ROWS = (0, 1, 6, 17, 49, 150)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert library.status("cpu").source != "reference"


class Draw:
    """Tensors of a dtype, the same each time."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self._generator = dtype, torch.Generator().manual_seed(3)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self.dtype)

    def product(self, outputs: int, inputs: int, width: int = 64) -> Tensor:
        return block_weights(self(outputs, inputs) / inputs**0.5, width)

    def norm(self, *, biased: bool, size: int = SIZE) -> tuple[Tensor, Tensor]:
        return 1 + self(size) / 4, self(size if biased else 0)


def linears(dtype: torch.dtype, rows: int, *, biased: bool) -> tuple[Any, ...]:
    draw = Draw(dtype)
    weights = [draw.product(count, SIZE, width) for count, width in zip(OUTPUTS, (64, 16, 48), strict=True)]
    biases = [draw(count if biased else 0) for count in OUTPUTS]
    return draw(rows, SIZE) + 1, *draw.norm(biased=biased), EPSILON, weights, biases, list(OUTPUTS)


def mlp(dtype: torch.dtype, rows: int, *, gated: bool, biased: bool, activation: str) -> tuple[Any, ...]:
    draw = Draw(dtype)
    norm, norm_bias = draw.norm(biased=biased)
    none, size = draw(0), SIZE if biased else 0
    inner = INNER if biased else 0
    weights = [draw.product(SIZE, MIXED), draw(size), norm, norm_bias]
    weights += [draw.product(INNER, SIZE, 48), draw(inner)] if gated else [none, none]
    weights += [draw.product(INNER, SIZE, 48), draw(inner), draw.product(SIZE, INNER, 32), draw(size)]
    assert len(weights) == len(MLP_WEIGHTS)
    return draw(rows, SIZE), draw(rows, MIXED), weights, INNER, EPSILON, activation


def encoder(dtype: torch.dtype, pictures: int, length: int, *, layers: int = 2) -> tuple[Any, ...]:
    draw, weights = Draw(dtype), list[Tensor]()
    for _ in range(layers):
        weights += draw.norm(biased=True)
        for _ in range(4):
            weights += (draw.product(SIZE, SIZE), draw(SIZE))
        weights += (*draw.norm(biased=True), draw(0), draw(0))
        weights += (draw.product(INNER, SIZE), draw(INNER), draw.product(SIZE, INNER), draw(SIZE))
    assert len(weights) == layers * len(ENCODER_WEIGHTS)
    return draw(pictures, length, SIZE), weights, 5, INNER, 14**-0.5, EPSILON, "quick_gelu"


def near(found: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    assert found.shape == exact.shape
    if exact.numel():
        assert (found.double() - exact).abs().max() <= APART[dtype] * exact.abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", ROWS)
def test_norm_linears_in_float64(dtype: torch.dtype, biased: bool, rows: int) -> None:
    given = linears(dtype, rows, biased=biased)
    for found, exact in zip(norm_linears(*given), norm_linears_reference(*given), strict=True):
        near(found, exact, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["silu", "quick_gelu", "gelu_tanh"])
@pytest.mark.parametrize(("gated", "biased"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("rows", ROWS)
def test_output_mlp_in_float64(
    dtype: torch.dtype, activation: str, gated: bool, biased: bool, rows: int
) -> None:
    given = mlp(dtype, rows, gated=gated, biased=biased, activation=activation)
    near(output_mlp(*given), output_mlp_reference(*given), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("pictures", "length"), [(0, 4), (1, 1), (1, 65), (3, 20)])
def test_encoder_layers_in_float64(dtype: torch.dtype, pictures: int, length: int) -> None:
    given = encoder(dtype, pictures, length)
    near(encoder_layers(*given), encoder_layers_reference(*given), dtype)


def test_the_reference_is_what_pytorchs_layers_compute() -> None:
    hidden, mixed, weights, inner, epsilon, activation = mlp(
        torch.float32, 9, gated=False, biased=True, activation="gelu_tanh"
    )

    def plain(name: str, outputs: int, inputs: int) -> Callable[[Tensor], Tensor]:
        at = MLP_WEIGHTS.index(name)
        rows = weights[at].transpose(1, 2).flatten(2).flatten(0, 1)[:outputs, :inputs]
        return lambda x: functional.linear(x, rows.double(), weights[at + 1].double())

    middle = hidden.double() + plain("output", SIZE, MIXED)(mixed.double())
    norm = nn.LayerNorm(SIZE, epsilon, dtype=torch.float64)
    norm.weight, norm.bias = (nn.Parameter(one.double()) for one in weights[2:4])
    wide = nn.GELU(approximate="tanh")(plain("up", INNER, SIZE)(norm(middle)))
    expected = middle + plain("down", SIZE, INNER)(wide)
    found = output_mlp_reference(hidden, mixed, weights, inner, epsilon, activation)
    torch.testing.assert_close(found, expected.detach())


def results(rows: slice, dtype: torch.dtype) -> list[Tensor]:
    hidden, *others = linears(dtype, 101, biased=True)
    found = norm_linears(hidden[rows], *others)
    hidden, mixed, *rest = mlp(dtype, 101, gated=True, biased=False, activation="silu")
    return [*found, output_mlp(hidden[rows], mixed[rows], *rest)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_whatever_the_others_and_the_threads(dtype: torch.dtype) -> None:
    together, threads = results(slice(None), dtype), torch.get_num_threads()
    hidden, *others = encoder(dtype, 4, 30)
    pictures = encoder_layers(hidden, *others)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for rows in (slice(0, 1), slice(40, 60), slice(37, 101)):
                for alone, one in zip(results(rows, dtype), together, strict=True):
                    assert torch.equal(alone, one[rows])
            assert torch.equal(encoder_layers(hidden[2:3], *others), pictures[2:3])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_stays_in_its_row(dtype: torch.dtype) -> None:
    hidden, *others = linears(dtype, 60, biased=True)
    hidden[7, 2], hidden[55, 0] = float("nan"), float("inf")
    for found in norm_linears(hidden, *others):
        assert found.isfinite().all(-1).logical_not().nonzero().flatten().tolist() == [7, 55]
    hidden, mixed, *rest = mlp(dtype, 60, gated=True, biased=False, activation="silu")
    mixed[3, 1] = float("nan")
    assert output_mlp(hidden, mixed, *rest).isfinite().all(-1).logical_not().nonzero().tolist() == [[3]]


def changed(given: tuple[Any, ...], at: int, value: Any, inner: int | None = None) -> tuple[Any, ...]:
    """With another argument, or another tensor in one."""
    arguments = list(given)
    if inner is not None:
        tensors = list(arguments[at])
        tensors[inner], value = value, tensors
    arguments[at] = value
    return tuple(arguments)


def test_what_does_not_fit_is_refused() -> None:
    draw = Draw(torch.float32)
    first = linears(torch.float32, 3, biased=True)
    second = mlp(torch.float32, 3, gated=True, biased=True, activation="silu")
    third = encoder(torch.float32, 1, 3)
    few_bits = torch.zeros(1, 1, 4 + SIZE, 64, dtype=torch.int8)
    cases: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
        (norm_linears, changed(first, 0, first[0].double()), "hidden must be Float or BFloat16"),
        (norm_linears, changed(first, 0, first[0][:, :-1].contiguous()), "even size"),
        (norm_linears, changed(first, 0, first[0].T), "hidden must be .R, D. and contiguous"),
        (norm_linears, changed(first, 1, draw(SIZE - 1)), "norms and their biases must be"),
        (norm_linears, changed(first, 2, draw(SIZE).bfloat16()), "norms and their biases must be"),
        (norm_linears, changed(first, 3, -1.0), "epsilon must be 0 or more"),
        (norm_linears, changed(first, 4, first[4][:2]), "must be as many, but are 2, 3 and 3"),
        (norm_linears, changed(first, 4, few_bits, 0), r"weights\[0\].* few bits"),
        (norm_linears, changed(first, 4, draw.product(10, SIZE), 2), r"weights\[2\] must have"),
        (norm_linears, changed(first, 5, draw(3), 1), r"biases\[1\] must be"),
        (output_mlp, changed(second, 1, draw(4, MIXED)), "mixed must have the rows and the dtype of hidden"),
        (output_mlp, changed(second, 2, second[2][:-1]), "weights must be 10 tensors, but are 9"),
        (output_mlp, changed(second, 2, draw.product(INNER, SIZE, 16), 4), "blocks of the same width"),
        (output_mlp, changed(second, 2, draw.product(SIZE, 40), 0), "output must have at least"),
        (output_mlp, changed(second, 3, 129), "inner must be an even number"),
        (output_mlp, changed(second, 5, "relu"), "activation must be silu, quick_gelu or gelu_tanh"),
        (encoder_layers, changed(third, 0, third[0][0]), "hidden must be .N, L, D."),
        (encoder_layers, changed(third, 1, third[1][:-1]), "weights must be 18 tensors for each layer"),
        (encoder_layers, changed(third, 1, draw(2), 20 + 1), "query_bias of layer 1 must be"),
        (encoder_layers, changed(third, 2, 4), "heads must divide D, 70"),
        (encoder_layers, changed(third, 4, float("nan")), "scale must be finite"),
    ]
    for operator, given, message in cases:
        with pytest.raises(RuntimeError, match=message):
            operator(*given)
    for operator, given in ((norm_linears, first), (output_mlp, second), (encoder_layers, third)):
        with pytest.raises(ValueError, match="hidden must be on the CPU, but is on meta"):
            operator(given[0].to("meta"), *given[1:])
