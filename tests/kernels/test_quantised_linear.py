"""Linear layers of few bits on CUDA: float64, shapes, strides, exact weights, and every way to call it.

Without a GPU the kernels run in emulation alone (test_emulation.py), which says so by `_BACKEND`. What is
plain PyTorch, that is, the reference and the check of arguments, is tested everywhere.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import linear

from kernels.low_bit import DTYPES, KINDS, packed, rows, some_bias, weight_in_float64, weights
from secondlook.kernels import (
    QuantisedWeights,
    library,
    pack_quantised,
    quantised_linear,
    quantised_linear_reference,
)

MODULE: Any = sys.modules["secondlook.kernels.quantised_linear"]
FEW = 16
MODERATE = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
with_kernels = pytest.mark.parametrize(
    "device",
    ["cpu" if MODULE._BACKEND == "cpu" else pytest.param("cuda", marks=pytest.mark.needs_cuda)],
    indirect=True,
)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The operator on the CPU, where its reference serves."""
    monkeypatch.setattr(MODULE, "_BACKEND", "cpu")
    library.set_mode("reference")
    yield
    library.set_mode(None)


def check(of: QuantisedWeights, input: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 -- torch's name
    """The operator against float64, by the rounding of its sums and of the result; returns the result."""
    found = quantised_linear(input, *packed(of, input.device), bias)
    weight, x = weight_in_float64(of), input.cpu().double()
    added = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.cpu().double()
    exact, size = x @ weight.T + added, x.abs() @ weight.abs().T + added.abs()
    assert (found.dtype, found.device, found.shape) == (input.dtype, input.device, exact.shape)
    assert found.is_contiguous()
    error = (found.cpu().double() - exact).abs()
    rounding = torch.finfo(input.dtype).eps / 2 if input.dtype != torch.float32 else 0.0
    few = len(input) <= FEW  # of many, weights are rounded too, and PyTorch sums
    bound = rounding * exact.abs() + 2.0**-20 * size if few else 4 * torch.finfo(input.dtype).eps * size
    assert (error <= bound + 1e-30).all()
    return found


@with_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9, 16, 17, 40])
def test_float64(device: torch.device, count: int, dtype: torch.dtype, kind: str) -> None:
    check(weights(kind), rows(count, 96, dtype, device), some_bias(10, dtype, device))


@with_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("outputs", "inputs", "group"),
    [
        (1, 16, 16),
        (3, 24, 24),
        (4, 1024, 128),
        (9, 1032, 1032),
        (6, 2816, 64),
        (5, 2816, 2816),
        (2, 4160, 40),
    ],
)
def test_sizes(device: torch.device, kind: str, outputs: int, inputs: int, group: int) -> None:
    of = weights(kind, outputs, inputs, group)
    for count, dtype in ((1, torch.bfloat16), (2, torch.float32), (6, torch.float16)):
        check(of, rows(count, inputs, dtype, device), None)


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    group = 8 * draw(st.one_of(st.integers(2, 40), st.sampled_from([4, 8, 16])))
    return {
        "kind": draw(st.sampled_from(KINDS)),
        "outputs": draw(st.integers(1, 30)),
        "inputs": group * draw(st.integers(1, 9)),
        "group": group,
        "seed": draw(st.integers(0, 2**31)),
        "count": draw(st.integers(1, 20)),
        "dtype": draw(st.sampled_from(DTYPES)),
        "biased": draw(st.booleans()),
        "layout": draw(st.sampled_from(["plain", "inside", "odd", "apart"])),
    }


def relaid(input: Tensor, layout: str) -> Tensor:  # noqa: A002 -- torch's name
    """Equal rows with other strides; what lies around them is NaN."""
    count, inputs = input.shape
    if layout == "plain":
        return input
    if layout == "apart":
        return input.new_full((count, 3, inputs), math.nan).index_copy_(
            1, torch.tensor([1]).to(input.device), input[:, None]
        )[:, 1]
    first = 8 if layout == "inside" else 3  # then no row is aligned
    return input.new_full((count + 1, inputs + 16), math.nan)[1:, first : inputs + first].copy_(input)


@with_kernels
@MODERATE
@given(call=calls())
def test_any_shape_and_stride(device: torch.device, call: dict[str, Any]) -> None:
    layout, count, dtype, biased = (call.pop(name) for name in ("layout", "count", "dtype", "biased"))
    of = weights(**call)
    input = relaid(rows(count, call["inputs"], dtype, device, call["seed"]), layout)  # noqa: A001
    check(of, input, some_bias(call["outputs"], dtype, device) if biased else None)


def every_value(kind: str) -> QuantisedWeights:
    """Each of a kind's values, with scales that need all their bits and, of whole numbers, several zeros."""
    if kind == "float8":
        codes = torch.tensor([code for code in range(256) if code & 127 != 127], dtype=torch.uint8)  # no NaN
        values = torch.cat([codes, codes[:2]]).view(torch.float8_e4m3fn).repeat(6, 1)
        return QuantisedWeights(values, torch.linspace(0.3, 3, 6).half().float()[:, None], None, 8)
    half = 8 if kind == "4 bits" else 128
    values = torch.arange(-half, half).repeat(6, 16 // half + 1)[:, : 256 if half > 8 else 32].to(torch.int8)
    zeros = torch.tensor([0.0, 1, -1, 127, -128, 5])[:, None]
    scales = (torch.linspace(0.3, 3, 6).view(torch.int32) & ~0xFF).view(torch.float32)[:, None]
    return QuantisedWeights(values, scales, zeros, 4 if kind == "4 bits" else 8)


@with_kernels
@pytest.mark.parametrize("kind", ["4 bits", "8 bits", "float8"])
def test_weights_are_exact(device: torch.device, kind: str) -> None:
    """One input at a time gives its weight, rounded as float32 rounds it once; and so do all at once."""
    of = every_value(kind)
    expected = weight_in_float64(of).float().T
    inputs = of.values.shape[1]
    identity, pack = torch.eye(inputs, device=device), packed(of, device)
    for first in range(0, inputs, FEW):
        found = quantised_linear(identity[first : first + FEW], *pack, None)
        assert torch.equal(found.cpu(), expected[first : first + FEW])
    assert torch.equal(quantised_linear(identity, *pack, None).cpu(), expected)


@with_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("biased", [False, True])
def test_many_rows_are_multiplied_by_rounded_weights(
    device: torch.device, kind: str, dtype: torch.dtype, biased: bool
) -> None:
    of = weights(kind, 12, 2112, 64)
    input, bias = rows(33, 2112, dtype, device), some_bias(12, dtype, device) if biased else None  # noqa: A001
    expected = linear(input, of.dequantised(dtype).to(device), bias)
    assert torch.equal(quantised_linear(input, *packed(of, device), bias), expected)


@with_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["4 bits", "8 bits", "float8"])
def test_a_row_does_not_depend_on_the_others(device: torch.device, kind: str, dtype: torch.dtype) -> None:
    pack = packed(weights(kind, 7, 1216, 64), device)
    input, bias = rows(FEW, 1216, dtype, device), some_bias(7, dtype, device)  # noqa: A001
    together = quantised_linear(input, *pack, bias)
    for count in (1, 2, 3, 7):
        for first in range(0, FEW - count + 1, count):
            part = slice(first, first + count)
            assert torch.equal(quantised_linear(input[part], *pack, bias), together[part])
    others = input.clone()
    others[1:] = math.nan
    assert torch.equal(quantised_linear(others, *pack, bias)[0], together[0])


@with_kernels
def test_an_output_does_not_depend_on_the_others(device: torch.device) -> None:
    values, scales = packed(weights("4 bits", 9, 128), device)
    input = rows(2, 128, torch.bfloat16, device)  # noqa: A001
    together = quantised_linear(input, values, scales, None)
    for n in range(9):
        alone = quantised_linear(input, values[n : n + 1].clone(), scales[n : n + 1], None)
        assert torch.equal(alone[:, 0], together[:, n])


@with_kernels
def test_rows_may_be_one_row(device: torch.device) -> None:
    of = weights()
    one = rows(1, 96, torch.float16, device)
    found = check(of, one.expand(5, -1), None)
    assert torch.equal(found, quantised_linear(one, *packed(of, device), None).expand(5, -1))


@with_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(device: torch.device, kind: str) -> None:
    found = quantised_linear(rows(0, 96, torch.float16, device), *packed(weights(kind), device), None)
    assert found.shape == (0, 10)


@with_kernels
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_in_its_row(device: torch.device, value: float) -> None:
    of = QuantisedWeights(torch.ones(3, 32, dtype=torch.int8), torch.ones(3, 1), None, 8)
    input = torch.ones(3, 32, device=device)  # noqa: A001
    input[1, 17] = value
    found = quantised_linear(input, *packed(of, device), None).cpu()
    expected = torch.tensor([32.0, value, 32.0])[:, None].expand(3, 3)
    assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))


@with_kernels
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_results_are_rounded_to_nearest(device: torch.device, dtype: torch.dtype) -> None:
    """Sums that are half way between two values of the dtype."""
    of = QuantisedWeights(torch.ones(2, 16, dtype=torch.int8), torch.ones(2, 1), None, 8)
    step = torch.finfo(dtype).eps
    for sum_of_two in (1 + step / 2, 1 + 3 * step / 2, 1 + step / 2 + step / 4, -1 - step / 2):
        input = torch.zeros(1, 16, dtype=dtype)  # noqa: A001
        input[0, 0] = math.copysign(1.0, sum_of_two)
        input[0, 9] = sum_of_two - input[0, 0].item()
        found = quantised_linear(input.to(device), *packed(of, device), None)
        assert found[0, 1].item() == torch.tensor(sum_of_two, dtype=torch.float64).to(dtype).item()


@with_kernels
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 3, 20])
def test_opcheck(device: torch.device, kind: str, count: int) -> None:
    arguments = (rows(count, 96, torch.bfloat16, device), *packed(weights(kind), device), None)
    torch.library.opcheck(torch.ops.secondlook.quantised_linear.default, arguments)


@with_kernels
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_compiles_into_one_graph(device: torch.device, backend: str) -> None:
    def applied(input: Tensor, *pack: Tensor) -> Tensor:  # noqa: A002
        return quantised_linear(input * 2, *pack, None) + 1

    arguments = (rows(3, 96, torch.float32, device), *packed(weights(), device))
    compiled = torch.compile(applied, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(*arguments), applied(*arguments))


@pytest.mark.needs_cuda
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 7, 40])
def test_a_graph_replays_with_what_its_inputs_hold_then(count: int, kind: str) -> None:
    pack = packed(weights(kind, 512, 1024, 64), "cuda")
    input, bias = rows(count, 1024, torch.bfloat16, "cuda"), some_bias(512, torch.bfloat16, "cuda")  # noqa: A001
    quantised_linear(input, *pack, bias)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = quantised_linear(input, *pack, bias)
    for seed in (3, 4):
        input.copy_(rows(count, 1024, torch.bfloat16, seed=seed))
        graph.replay()
        assert torch.equal(found, quantised_linear(input, *pack, bias))


@pytest.mark.needs_cuda
@pytest.mark.parametrize("count", [1, 16, 40])
def test_it_runs_on_the_current_stream(count: int) -> None:
    """Rows that are written on a stream of their own, after a wait, are those that are multiplied there."""
    pack = packed(weights("8 bits", 64, 1024, 1024), "cuda")
    new, input = rows(count, 1024, torch.float16, "cuda"), torch.zeros(count, 1024, device="cuda").half()  # noqa: A001
    expected = quantised_linear(new, *pack, None)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(10**8)
        input.copy_(new)
        found = quantised_linear(input, *pack, None)
        torch.cuda.current_stream().synchronize()
    assert torch.equal(found, expected)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reference(dtype: torch.dtype, kind: str) -> None:
    of, input, bias = weights(kind), rows(20, 96, dtype), some_bias(10, dtype)  # noqa: A001
    exact = quantised_linear_reference(input, *pack_quantised(of), bias)
    expected = input.double() @ weight_in_float64(of).T + bias.double()
    torch.testing.assert_close(exact, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(quantised_linear(input, *pack_quantised(of), bias), exact.to(dtype))


VALUES, SCALES = pack_quantised(weights())
WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"input": torch.zeros(96)}, ValueError, r"input must be \[B, inputs\] .* shape is \[96\]"),
    ({"input": torch.zeros(3, 192)[:, ::2]}, ValueError, r"input must be .* strides are \(192, 2\)"),
    ({"input": torch.zeros(3, 96).double()}, TypeError, "input must be float32, .* but is torch.float64"),
    ({"input": torch.zeros(3, 64)}, ValueError, r"values must be \[outputs, 32\], but has shape \[10, 48\]"),
    ({"values": VALUES.short()}, TypeError, "values must be uint8, int8 or float8_e4m3fn, .* torch.int16"),
    ({"values": VALUES.view(torch.int8)}, ValueError, r"values must be \[outputs, 96\], .* \[10, 48\]"),
    ({"values": VALUES[0]}, ValueError, r"values must be \[outputs, 48\], but has shape \[48\]"),
    (
        {"values": VALUES[:0], "scales": SCALES[:0]},
        ValueError,
        r"values must be \[outputs, 48\], .* \[0, 48\]",
    ),
    ({"values": VALUES.repeat(1, 2)[:, ::2]}, ValueError, "values must be contiguous"),
    ({"scales": SCALES.float()}, TypeError, "scales must be torch.int32, but is torch.float32"),
    ({"scales": SCALES[0]}, ValueError, r"scales must be \[10, groups\], .* is \[3\] for 96 inputs"),
    ({"scales": SCALES[:9]}, ValueError, r"scales must be \[10, groups\], .* is \[9, 3\] for 96 inputs"),
    ({"scales": SCALES[:, :0]}, ValueError, r"scales must be .* is \[10, 0\] for 96 inputs"),
    ({"scales": SCALES.repeat(1, 3)}, ValueError, r"scales must be .* is \[10, 9\] for 96 inputs"),
    ({"scales": SCALES.repeat(1, 4)}, ValueError, r"scales must be .* 16 inputs or more.* \[10, 12\]"),
    ({"scales": SCALES.repeat(1, 2)[:, ::2]}, ValueError, "scales must be contiguous"),
    ({"bias": torch.zeros(10).half()}, TypeError, "bias must have the dtype of input, torch.float32, .*16"),
    ({"bias": torch.zeros(9)}, ValueError, r"bias must be \[10\], but has shape \[9\]"),
    ({"bias": torch.zeros(20)[::2]}, ValueError, r"bias must be contiguous, but its strides are \(2,\)"),
    ({"scales": SCALES.to("meta")}, ValueError, "scales must be on cpu as input is, but is on meta"),
]


def changed(change: dict[str, Any], device: torch.device | str) -> list[Any]:
    arguments = {"input": torch.zeros(3, 96), "values": VALUES, "scales": SCALES, "bias": None} | change
    return [
        value.to(device) if isinstance(value, Tensor) and value.device.type != "meta" else value
        for value in arguments.values()
    ]


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(("change", "error", "message"), WRONG)
def test_errors(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        quantised_linear(*changed(change, "cpu"))


@pytest.mark.skipif(MODULE._BACKEND == "cpu", reason="the kernels are emulated on the CPU")
def test_the_cpu_has_another_operator() -> None:
    with pytest.raises(ValueError, match="input must be on CUDA, but is on cpu; the CPU has blocked_linear"):
        quantised_linear(*changed({}, "cpu"))


@with_kernels
@pytest.mark.parametrize("change", [change for change, _, message in WRONG if "meta" not in message])
def test_errors_of_the_bare_operator(device: torch.device, change: dict[str, Any]) -> None:
    """From C++, which names what was wrong too."""
    with pytest.raises(RuntimeError, match=r"(input|values|scales|bias) must"):
        torch.ops.secondlook.quantised_linear(*changed(change, device))


@with_kernels
def test_the_bare_operator_refuses_values_at_odd_addresses(device: torch.device) -> None:
    odd = torch.zeros(VALUES.numel() + 1, dtype=torch.uint8, device=device)[1:].view_as(VALUES)
    with pytest.raises(RuntimeError, match="values must be contiguous and start at a multiple of 8 bytes"):
        torch.ops.secondlook.quantised_linear(*changed({"values": odd}, device))
