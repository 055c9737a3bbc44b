"""The attention row: float64 softmax, whole matrices, strides, extremes, and every way to call it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from secondlook.kernels import library
from secondlook.kernels.attention_row import attention_row, attention_row_reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
EPSILON = 2.0**-23
MODERATE = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def sample(
    batch: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    size: int = 70,
    width: int = 32,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, keys and lengths; lengths differ, and the first is the whole size."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, heads, width, generator=generator).to(dtype)
    keys = torch.randn(batch, kv_heads, size, width, generator=generator).to(dtype)
    lengths = torch.tensor([max(0, size - 13 * b) for b in range(batch)], dtype=torch.int64)
    return query.to(device), keys.to(device), lengths.to(device)


def oracle(
    query: Tensor,
    keys: Tensor,
    lengths: Tensor,
    start: int,
    stop: int,
    scale: float,
    head_weights: Tensor | None = None,
) -> tuple[Tensor, float]:
    """One head at a time in float64, and the relative error that float32 scores of this size allow."""
    batch, heads, _ = query.shape
    group = heads // keys.shape[1]
    row = torch.zeros(batch, stop - start, dtype=torch.float64)
    largest = 0.0
    for b in range(batch):
        length = int(lengths[b])
        for h in range(heads):
            one, several = query[b, h].cpu().double(), keys[b, h // group, :length].cpu().double()
            whole = torch.zeros(keys.shape[2], dtype=torch.float64)
            whole[:length] = torch.softmax(several @ one * scale, dim=0)
            row[b] += whole[start:stop] * (1 / heads if head_weights is None else float(head_weights[h]))
            if length:
                largest = max(largest, float((several.abs() @ one.abs()).max()) * abs(scale))
    return row, 1e-5 + 4 * EPSILON * largest


def check(*arguments: Any) -> Tensor:
    """The operator against the oracle, and the reference nearly exactly; returns the operator's row."""
    found = attention_row(*arguments)
    expected, relative = oracle(*arguments)
    exact = attention_row_reference(*arguments)
    assert found.dtype == torch.float32
    assert found.device == arguments[0].device
    assert found.shape == (arguments[0].shape[0], arguments[4] - arguments[3])
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.cpu(), expected, rtol=1e-9, atol=1e-300)
    torch.testing.assert_close(found.cpu().double(), expected, rtol=relative, atol=1e-37)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "width"),
    [(32, 32, 130, 128), (28, 4, 300, 128), (9, 1, 65, 64), (20, 1, 64, 256), (2, 2, 1, 80), (3, 3, 5, 1)],
)
def test_float64(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, size: int, width: int
) -> None:
    query, keys, lengths = sample(3, heads, kv_heads, size, width, dtype, device)
    check(query, keys, lengths, size // 5, size - size // 4, width**-0.5)


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    kv_heads = draw(st.integers(1, 4))
    size = draw(st.integers(1, 300))
    start = draw(st.integers(0, size))
    return {
        "batch": draw(st.integers(1, 3)),
        "heads": kv_heads * draw(st.integers(1, 12)),
        "kv_heads": kv_heads,
        "size": size,
        "width": draw(st.one_of(st.integers(1, 256), st.sampled_from([16, 32, 64, 80, 96, 128, 256]))),
        "dtype": draw(st.sampled_from(DTYPES)),
        "seed": draw(st.integers(0, 2**31)),
        "span": (start, draw(st.integers(start, size))),
        "scale": draw(st.sampled_from([0.0, 1.0, -0.3, 0.125, 3.0])),
        "layout": draw(st.sampled_from(["plain", "positions first", "cache", "wide", "odd", "expanded"])),
        "weighted": draw(st.booleans()),
    }


def relaid(keys: Tensor, layout: str) -> Tensor:
    """Equal keys with other strides; what lies around them is NaN."""
    batch, heads, size, width = keys.shape
    nan = keys.new_full((batch + 1, heads + 2, size + 3, width + 8), math.nan)
    if layout == "positions first":
        return keys.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "expanded":
        return keys[:1].expand(batch, -1, -1, -1)
    if layout == "cache":
        view = nan[1:, 2:, 3:, :].contiguous()[..., :width]
    elif layout == "wide":
        view = nan[1:, 2:, 3:, 8:]
    else:  # no key is aligned
        view = nan[1:, 2:, 3:, 3 : width + 3]
    return view.copy_(keys) if layout != "plain" else keys


@MODERATE
@given(call=calls())
def test_any_shape_and_stride(device: torch.device, call: dict[str, Any]) -> None:
    span, scale, layout, weighted = (call.pop(name) for name in ("span", "scale", "layout", "weighted"))
    query, keys, _ = sample(**call, device=device)
    generator = torch.Generator().manual_seed(call["seed"])
    lengths = torch.randint(0, call["size"] + 1, (call["batch"],), generator=generator).to(device)
    weights = torch.randn(call["heads"], generator=generator).abs().to(device) if weighted else None
    check(query, relaid(keys, layout), lengths, *span, scale, weights)


def test_queries_lengths_and_weights_may_be_strided(device: torch.device) -> None:
    query, keys, lengths = sample(3, 6, 2, 40, 48, device=device)
    weights = torch.rand(6, device=device)
    plain = check(query, keys, lengths, 3, 33, 0.2, weights)
    wide = torch.stack([query, query], dim=1).transpose(1, 2)[:, :, 1]
    assert not wide.is_contiguous()
    apart = check(wide, keys, torch.stack([lengths, lengths], 1)[:, 0], 3, 33, 0.2, weights.repeat(2)[:6])
    doubled = check(query, keys, lengths, 3, 33, 0.2, torch.stack([weights, weights], 1)[:, 1])
    assert torch.equal(plain, apart)
    assert torch.equal(plain, doubled)


def test_long_rows(device: torch.device) -> None:
    query, keys, _ = sample(2, 4, 2, 9000, 16, torch.bfloat16, device)
    found = check(query, keys, torch.tensor([9000, 8127], device=device), 0, 9000, 0.5)
    assert found.double().sum(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_many_blocks_share_a_launch(device: torch.device) -> None:
    query, keys, lengths = sample(40, 16, 16, 520, 8, device=device)
    check(query, keys, lengths, 100, 500, 0.4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sharp_rows_keep_what_underflows_at_zero(device: torch.device, dtype: torch.dtype) -> None:
    query = torch.full((1, 1, 64), 12.5, dtype=dtype, device=device)
    keys = torch.zeros(1, 1, 50, 64, dtype=dtype, device=device)
    keys[..., 7, :], keys[..., 9, :], keys[..., 11, :] = 12.5, -12.5, 12.375  # scores 1e4, -1e4, 9900
    found = check(query, keys, torch.tensor([50], device=device), 0, 50, 1.0)
    assert found[0, 7] == 1
    assert found[0, 8:].abs().max() <= 1e-37
    equal = attention_row(query, keys.fill_(-12.5), torch.tensor([50], device=device), 0, 50, 1.0)
    torch.testing.assert_close(equal, torch.full_like(equal, 1 / 50), rtol=1e-6, atol=0)


def test_equals_the_masked_matrix(device: torch.device) -> None:
    query, keys, lengths = sample(3, 8, 4, 90, 32, device=device)
    scores = query[:, :, None] @ keys.repeat_interleave(2, dim=1).transpose(2, 3) * 0.17  # [B, H, 1, S]
    hidden = torch.arange(90, device=device) >= lengths[:, None, None, None]
    expected = scores.masked_fill(hidden, -math.inf).softmax(-1).mean(1)[:, 0, 10:80]
    torch.testing.assert_close(
        attention_row(query, keys, lengths, 10, 80, 0.17), expected, rtol=2e-5, atol=1e-9
    )


def test_keys_after_a_length_are_never_read(device: torch.device) -> None:
    query, keys, lengths = sample(device=device)
    expected = attention_row(query, keys, lengths, 0, 70, 0.3)
    for b, length in enumerate(lengths.tolist()):
        keys[b, :, length:] = math.nan
    found = attention_row(query, keys, lengths, 0, 70, 0.3)
    assert torch.equal(found, expected)
    assert attention_row_reference(query, keys, lengths, 0, 70, 0.3).isfinite().all()
    assert found[1, int(lengths[1]) :].eq(0).all()


def test_no_valid_key_gives_zeros(device: torch.device) -> None:
    query, keys, _ = sample(device=device)
    keys.fill_(math.nan)
    found = attention_row(query, keys, torch.zeros(2, dtype=torch.int64, device=device), 5, 60, 1.0)
    assert found.eq(0).all()
    assert attention_row_reference(query, keys, torch.zeros(2, device=device), 5, 60, 1.0).eq(0).all()


@pytest.mark.parametrize("place", [3, 130, 290])
@pytest.mark.parametrize(
    ("value", "spoils"), [(math.nan, True), (math.inf, True), (-math.inf, False), ("all", True)]
)
def test_what_is_not_finite_goes_the_way_of_softmax(
    device: torch.device, value: Any, spoils: bool, place: int
) -> None:
    query, keys, _ = sample(2, 4, 2, 300, 8, device=device)
    lengths = torch.tensor([300, 295], device=device)
    query[..., 0] = 1.0
    if value == "all":
        keys[0, 1, :, 0] = -math.inf
    else:
        keys[0, 1, place, 0] = value
    found = attention_row(query, keys, lengths, 2, 299, 0.5)
    assert found[0].isnan().all().item() == spoils
    expected = attention_row_reference(query, keys, lengths, 2, 299, 0.5)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0, equal_nan=True)
    assert found[1].isfinite().all()
    assert found[1, 293:].eq(0).all()


def test_whole_chunks_of_minus_infinity_add_nothing(device: torch.device) -> None:
    query, keys, lengths = sample(1, 2, 2, 2200, 8, device=device)
    query[..., 0], keys[..., 0] = 1.0, -200.0  # so that a wrong reference point would overflow
    keys[:, :, 10:, 0] = -math.inf
    found = attention_row(query, keys, lengths, 0, 2200, 1.0)
    expected = attention_row_reference(query, keys, lengths, 0, 2200, 1.0)
    torch.testing.assert_close(found.double(), expected, rtol=3e-4, atol=0)
    assert found[0, 10:].eq(0).all()


@pytest.mark.parametrize(
    ("batch", "size", "span"), [(0, 20, (2, 9)), (2, 20, (4, 4)), (2, 0, (0, 0)), (0, 0, (0, 0))]
)
def test_empty(device: torch.device, batch: int, size: int, span: tuple[int, int]) -> None:
    query, keys, lengths = sample(batch, size=size, device=device)
    found = attention_row(query, keys, lengths.clamp(max=size), *span, 1.0)
    assert found.shape == (batch, span[1] - span[0])
    assert found.dtype == torch.float32


def test_threads_do_not_change_a_bit() -> None:
    query, keys, lengths = sample(2, 32, 8, 900, 128, torch.float16)
    before = torch.get_num_threads()
    try:
        rows = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            rows.append(attention_row(query, keys, lengths, 17, 813, 0.09))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])


def test_reference_mode(device: torch.device) -> None:
    arguments = (*sample(device=device), 3, 50, 0.25)
    library.set_mode("reference")
    try:
        found = attention_row(*arguments)
    finally:
        library.set_mode(None)
    assert torch.equal(found, attention_row_reference(*arguments).float())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(2, 4, 2, 70, 32), (1, 6, 1, 33, 7), (0, 4, 2, 9, 8), (1, 1, 1, 0, 1)])
def test_opcheck(
    device: torch.device, dtype: torch.dtype, weighted: bool, shape: tuple[int, int, int, int, int]
) -> None:
    query, keys, lengths = sample(*shape, dtype, device)
    weights = torch.rand(shape[1], device=device) if weighted else None
    arguments = (query, keys, lengths, shape[3] // 4, shape[3] // 2, 0.5, weights)
    torch.library.opcheck(torch.ops.secondlook.attention_row.default, arguments)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_compiles_into_one_graph(device: torch.device, backend: str) -> None:
    def looked(query: Tensor, keys: Tensor, lengths: Tensor) -> Tensor:
        return attention_row(query * 2, keys, lengths, 5, 60, 0.1) + 1

    arguments = sample(device=device)
    compiled = torch.compile(looked, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(*arguments), looked(*arguments))


@pytest.mark.needs_cuda
def test_a_graph_replays_with_what_its_inputs_hold_then() -> None:
    query, keys, lengths = sample(1, 32, 32, 1300, 128, torch.float16, "cuda")
    attention_row(query, keys, lengths, 35, 611, 128**-0.5)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        row = attention_row(query, keys, lengths, 35, 611, 128**-0.5)
    for seed, length in ((1, 1300), (2, 400), (3, 0)):
        other, others, _ = sample(1, 32, 32, 1300, 128, torch.float16, "cuda", seed)
        query.copy_(other), keys.copy_(others), lengths.fill_(length)
        graph.replay()
        assert torch.equal(row, attention_row(query, keys, lengths, 35, 611, 128**-0.5))


@pytest.mark.needs_cuda
def test_lengths_on_the_gpu_are_clamped() -> None:
    query, keys, _ = sample(device="cuda")
    wrong, right = (torch.tensor(values, device="cuda") for values in ([-5, 2**40], [0, 70]))
    found = attention_row(query, keys, wrong, 0, 70, 0.5)
    assert torch.equal(found, attention_row(query, keys, right, 0, 70, 0.5))


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"query": torch.zeros(4, 32)}, ValueError, r"query must be \[B, H, D\], but has shape \[4, 32\]"),
    ({"keys": torch.zeros(2, 70, 32)}, ValueError, r"keys must be \[B, H_kv, S, D\], but has shape"),
    ({"lengths": torch.tensor(3)}, ValueError, r"lengths must be \[B\], but has shape \[\]"),
    ({"query": torch.zeros(2, 4, 32).double()}, TypeError, "query must be float32, .* but is torch.float64"),
    ({"keys": torch.zeros(2, 2, 70, 32).half()}, TypeError, "keys must have the dtype of query, .*float16"),
    ({"lengths": torch.zeros(2)}, TypeError, "lengths must be torch.int64, but is torch.float32"),
    ({"query": torch.zeros(2, 4, 0)}, ValueError, "query must have 1 to 256 elements .* has 0"),
    ({"query": torch.zeros(2, 4, 257)}, ValueError, "query must have 1 to 256 elements .* has 257"),
    ({"query": torch.zeros(2, 5, 32)}, ValueError, "a multiple of the 2 heads of keys, but has 5"),
    ({"query": torch.zeros(2, 0, 32)}, ValueError, "a multiple of the 2 heads of keys, but has 0"),
    ({"keys": torch.zeros(2, 0, 70, 32)}, ValueError, "a multiple of the 0 heads of keys, but has 4"),
    ({"keys": torch.zeros(3, 2, 70, 32)}, ValueError, r"keys must have shape \[2, H_kv, S, 32\], but has"),
    ({"lengths": torch.tensor([3])}, ValueError, r"lengths must have shape \[2\], but has \[1\]"),
    ({"keys": torch.zeros(2, 2, 70, 64)[..., ::2]}, ValueError, "keys must be contiguous .* stride is 2"),
    ({"query": torch.zeros(2, 4, 64)[..., ::2]}, ValueError, "query must be contiguous .* stride is 2"),
    ({"start": -1}, ValueError, "0 <= start <= stop <= 70, got -1 and 9"),
    ({"start": 10}, ValueError, "0 <= start <= stop <= 70, got 10 and 9"),
    ({"stop": 71}, ValueError, "0 <= start <= stop <= 70, got 1 and 71"),
    ({"scale": math.nan}, ValueError, "scale must be finite in float32, got nan"),
    ({"scale": -math.inf}, ValueError, "scale must be finite in float32, got -inf"),
    ({"scale": 1e39}, ValueError, r"scale must be finite in float32, got 1e\+39"),
    ({"lengths": torch.tensor([3, 71])}, ValueError, r"lengths must be in \[0, 70\], but holds 71"),
    ({"lengths": torch.tensor([-1, 7])}, ValueError, r"lengths must be in \[0, 70\], but holds -1"),
    ({"head_weights": torch.zeros(4).double()}, TypeError, "head_weights must be torch.float32, but is"),
    ({"head_weights": torch.zeros(3)}, ValueError, r"head_weights must have shape \[4\], but has \[3\]"),
    ({"lengths": torch.zeros(2).long().to("meta")}, ValueError, "lengths must be on cpu .* but is on meta"),
]


def changed(change: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    query, keys, lengths = sample()
    arguments = {"query": query, "keys": keys, "lengths": lengths, "start": 1, "stop": 9, "scale": 1.0}
    return {
        name: value.to(device) if isinstance(value, Tensor) and value.device.type != "meta" else value
        for name, value in (arguments | change).items()
    }


@pytest.mark.parametrize(("change", "error", "message"), WRONG)
@pytest.mark.parametrize("mode", ["auto", "reference"])
def test_errors(change: dict[str, Any], error: type[Exception], message: str, mode: library.Mode) -> None:
    library.set_mode(mode)
    try:
        with pytest.raises(error, match=message):
            attention_row(**changed(change, "cpu"))
    finally:
        library.set_mode(None)


@pytest.mark.parametrize(
    "change", [change for change, _, message in WRONG if "meta" not in message and "holds" not in message]
)
def test_errors_of_the_bare_operator(device: torch.device, change: dict[str, Any]) -> None:
    """From C++, which names what was wrong too."""
    with pytest.raises(RuntimeError, match="must") as raised:
        torch.ops.secondlook.attention_row(**changed(change, device))
    assert next(iter(change)) in str(raised.value) or "heads of keys" in str(raised.value)


@pytest.mark.parametrize("change", [change for change, _, message in WRONG if "holds" in message])
def test_the_bare_operator_looks_at_lengths_on_the_cpu(change: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match="lengths must"):
        torch.ops.secondlook.attention_row(**changed(change, "cpu"))
