"""Decode attention over slots: float64, torch's own, strides, poison, extremes, and every way to call it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from secondlook.kernels import library
from secondlook.kernels.decode_attention import decode_attention, decode_attention_reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
"""Of a row's largest value: rounding to 16 bits alone is half of a 16-bit one."""
MODERATE = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def sample(
    batch: int = 3,
    heads: int = 4,
    kv_heads: int = 2,
    size: int = 150,
    width: int = 32,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    cache: int = 5,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Query, keys, values, slots and lengths; slots and lengths differ, and the first length is the size."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, heads, width, generator=generator).to(dtype)
    keys, values = torch.randn(2, cache, kv_heads, size, width, generator=generator).to(dtype)
    slots = torch.tensor([(3 * b + 1) % cache for b in range(batch)], dtype=torch.int64)
    lengths = torch.tensor([max(0, size - 37 * b) for b in range(batch)], dtype=torch.int64)
    return query.to(device), keys.to(device), values.to(device), slots.to(device), lengths.to(device)


def oracle(
    query: Tensor, keys: Tensor, values: Tensor, slots: Tensor, lengths: Tensor, scale: float
) -> Tensor:
    """One head at a time in float64."""
    row = torch.zeros(query.shape, dtype=torch.float64)
    group = query.shape[1] // keys.shape[1]
    for b, (slot, length) in enumerate(zip(slots.tolist(), lengths.tolist(), strict=True)):
        for h in range(query.shape[1] if length else 0):
            several, known = (cache[slot, h // group, :length].cpu().double() for cache in (keys, values))
            row[b, h] = torch.softmax(several @ query[b, h].cpu().double() * scale, dim=0) @ known
    return row


def check(*arguments: Any, relative: float = 0.0) -> Tensor:
    """The operator against the oracle, and the reference nearly exactly; returns the operator's result."""
    found = decode_attention(*arguments)
    expected = oracle(*arguments)
    exact = decode_attention_reference(*arguments)
    query = arguments[0]
    assert (found.dtype, found.device, found.shape) == (query.dtype, query.device, query.shape)
    assert found.is_contiguous()
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.cpu(), expected, rtol=1e-9, atol=1e-12)
    largest = expected.abs().amax(dim=(1, 2), keepdim=True)
    error = (found.cpu().double() - expected).abs()
    assert (error <= (relative or TOLERANCE[query.dtype]) * largest + 1e-30).all()
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "width"),
    [(16, 16, 650, 64), (28, 4, 300, 128), (9, 1, 130, 64), (20, 1, 64, 256), (2, 2, 1, 80), (3, 3, 5, 1)],
)
def test_float64(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, size: int, width: int
) -> None:
    check(*sample(3, heads, kv_heads, size, width, dtype, device), width**-0.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kv_heads", [8, 2])
def test_equals_scaled_dot_product_attention(device: torch.device, dtype: torch.dtype, kv_heads: int) -> None:
    query, keys, values, slots, lengths = sample(3, 8, kv_heads, 400, 64, dtype, device)
    found = decode_attention(query, keys, values, slots, lengths, 0.125)
    for b, (slot, length) in enumerate(zip(slots.tolist(), lengths.tolist(), strict=True)):
        cached = (cache[slot : slot + 1, :, :length] for cache in (keys, values))
        row = scaled_dot_product_attention(query[b : b + 1, :, None], *cached, scale=0.125, enable_gqa=True)
        bound = 2 * TOLERANCE[dtype] * float(row.abs().max())
        torch.testing.assert_close(found[b : b + 1], row[:, :, 0], rtol=0, atol=bound)


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    kv_heads = draw(st.integers(1, 4))
    return {
        "batch": draw(st.integers(1, 4)),
        "heads": kv_heads * draw(st.integers(1, 12)),
        "kv_heads": kv_heads,
        "size": draw(st.integers(1, 400)),
        "width": draw(st.one_of(st.integers(1, 256), st.sampled_from([16, 32, 64, 80, 96, 128, 256]))),
        "dtype": draw(st.sampled_from(DTYPES)),
        "seed": draw(st.integers(0, 2**31)),
        "cache": draw(st.integers(1, 4)),
        "scale": draw(st.sampled_from([0.0, 1.0, -0.3, 0.125])),
        "layouts": [draw(st.sampled_from(["plain", "positions first", "inside", "odd"])) for _ in range(2)],
    }


def relaid(cache: Tensor, layout: str) -> Tensor:
    """An equal cache with other strides; what lies around it is NaN."""
    slots, heads, size, width = cache.shape
    if layout == "plain":
        return cache
    if layout == "positions first":
        return cache.transpose(1, 2).contiguous().transpose(1, 2)
    nan = cache.new_full((slots + 1, heads + 2, size + 3, width + 8), math.nan)
    first = 8 if layout == "inside" else 3  # then no row is aligned
    return nan[1:, 2:, 3:, first : width + first].copy_(cache)


@MODERATE
@given(call=calls())
def test_any_shape_and_stride(device: torch.device, call: dict[str, Any]) -> None:
    scale, layouts = call.pop("scale"), call.pop("layouts")
    query, keys, values, _, _ = sample(**call, device=device)
    generator = torch.Generator().manual_seed(call["seed"])
    slots = torch.randint(0, call["cache"], (call["batch"],), generator=generator).to(device)
    lengths = torch.randint(0, call["size"] + 1, (call["batch"],), generator=generator).to(device)
    scores = (
        16.0 if call["dtype"] == torch.float32 and abs(scale) == 1.0 else 1.0
    )  # large ones round coarsely
    bound = scores * TOLERANCE[call["dtype"]]
    check(query, relaid(keys, layouts[0]), relaid(values, layouts[1]), slots, lengths, scale, relative=bound)


def test_everything_but_widths_may_be_strided(device: torch.device) -> None:
    query, keys, values, slots, lengths = sample(device=device)
    plain = check(query, keys, values, slots, lengths, 0.2)
    apart = [torch.stack([each, each], 1)[:, 1] for each in (slots, lengths)]
    wide = torch.stack([query, query], dim=1).transpose(1, 2)[:, :, 1]
    assert not wide.is_contiguous()
    both = torch.stack([keys, values], dim=3).flatten(2, 3).unflatten(2, (-1, 2))
    assert torch.equal(decode_attention(wide, both[:, :, :, 0], both[:, :, :, 1], *apart, 0.2), plain)
    shared = [cache[:1].expand(5, -1, -1, -1) for cache in (keys, values)]
    check(query[:1].expand(3, -1, -1), *shared, slots, lengths, 0.2)


def test_long_rows(device: torch.device) -> None:
    query, keys, values, slots, _ = sample(2, 4, 2, 9000, 16, torch.bfloat16, device, cache=2)
    check(query, keys, values, slots, torch.tensor([9000, 8127], device=device), 0.5)


def test_what_is_not_valid_is_never_read(device: torch.device) -> None:
    query, keys, values, slots, lengths = sample(device=device)
    expected = decode_attention(query, keys, values, slots, lengths, 0.3)
    poisoned = [torch.full_like(cache, math.nan) for cache in (keys, values)]
    for slot, length in zip(slots.tolist(), lengths.tolist(), strict=True):
        for cache, original in zip(poisoned, (keys, values), strict=True):
            cache[slot, :, :length] = original[slot, :, :length]
    assert torch.equal(decode_attention(query, *poisoned, slots, lengths, 0.3), expected)
    assert decode_attention_reference(query, *poisoned, slots, lengths, 0.3).isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 6, 2, 500, 80), (130, 32, 32, 150, 8)])  # there, chunks share blocks
def test_a_row_does_not_depend_on_the_others(device: torch.device, shape: Any, dtype: torch.dtype) -> None:
    query, keys, values, slots, lengths = sample(*shape, dtype, device)
    together = decode_attention(query, keys, values, slots, lengths, 0.11)
    more = [torch.cat([cache, torch.full_like(cache, math.nan)], dim=2) for cache in (keys, values)]
    for row in (slice(b, b + 1) for b in range(4)):
        for caches in ((keys, values), more):  # nor on the cache's size
            alone = decode_attention(query[row], *caches, slots[row], lengths[row], 0.11)
            assert torch.equal(alone, together[row])


def test_rows_may_share_a_slot(device: torch.device) -> None:
    query, keys, values, _, lengths = sample(device=device)
    slots = torch.tensor([2, 2, 2], device=device)
    check(query, keys, values, slots, lengths, 0.2)
    same = check(query[:1].expand(3, -1, -1), keys, values, slots, lengths[:1].expand(3), 0.2)
    assert torch.equal(same[0], same[2])


def test_threads_do_not_change_a_bit() -> None:
    arguments = (*sample(3, 16, 4, 900, 64, torch.bfloat16), 0.125)
    expected, before = decode_attention(*arguments), torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(decode_attention(*arguments), expected)
    finally:
        torch.set_num_threads(before)


def test_no_valid_position_gives_zeros(device: torch.device) -> None:
    query, keys, values, slots, lengths = sample(device=device)
    keys.fill_(math.nan), values.fill_(math.nan)
    assert decode_attention(query, keys, values, slots, lengths * 0, 1.0).eq(0).all()
    assert decode_attention_reference(query, keys, values, slots, lengths * 0, 1.0).eq(0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_scores_do_not_overflow(device: torch.device, dtype: torch.dtype) -> None:
    query, keys, values, slots, _ = sample(1, 2, 2, 300, 64, dtype, device)
    query.fill_(12.5)
    keys.zero_()
    keys[:, :, 70], keys[:, :, 250], keys[:, :, 290] = 12.5, -12.5, 12.0  # scores 1e4, -1e4, 9600
    lengths = torch.tensor([300], device=device)
    found = decode_attention(query, keys, values, slots, lengths, 1.0)
    assert torch.equal(found[0], values[slots[0], :, 70])
    assert torch.equal(
        decode_attention(query, keys, values, slots, lengths, -1.0)[0], values[slots[0], :, 250]
    )
    keys.fill_(-12.5)
    assert decode_attention(query, keys, values.fill_(3.0), slots, lengths, 1.0).eq(3.0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [2.0**-24, 1e-6, 3e-5, 6.1e-5, 1.0009765, 1.0014648, 65504.0, math.inf])
def test_one_position_gives_its_value(device: torch.device, dtype: torch.dtype, value: float) -> None:
    query, keys, values, slots, lengths = sample(dtype=dtype, device=device)
    values[..., ::2], values[..., 1::2] = value, -value
    found = decode_attention(query, keys, values, slots, torch.ones_like(lengths), 1.0)
    assert torch.equal(found, values[0, :1, 0].expand_as(found))


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_results_are_rounded_to_nearest(device: torch.device, dtype: torch.dtype) -> None:
    query, keys, values, slots, lengths = sample(1, 1, 1, 2, 256, dtype, device)
    query.zero_()  # the mean of two values: half way between two of their dtype, or one
    bits = torch.arange(256, device=device, dtype=torch.int16)
    for exponent in (0, 0x0400, 0x3C00, 0x7B00):
        values[1, 0, 0], values[1, 0, 1] = (bits + exponent).view(dtype), (bits + exponent + 1).view(dtype)
        expected = values[1, 0].float().mean(dim=0).to(dtype)
        found = decode_attention(query, keys, values, slots, lengths, 1.0)
        assert torch.equal(found[0, 0], expected)


@pytest.mark.parametrize("place", [3, 130, 290])
@pytest.mark.parametrize(
    ("value", "spoils"), [(math.nan, True), (math.inf, True), (-math.inf, False), ("all", True)]
)
def test_what_is_not_finite_goes_the_way_of_softmax(
    device: torch.device, value: Any, spoils: bool, place: int
) -> None:
    query, keys, values, slots, lengths = sample(2, 4, 2, 300, 8, device=device)
    query[..., 0] = 1.0
    if value == "all":
        keys[1, 1, :, 0] = -math.inf
    else:
        keys[1, 1, place, 0] = value
    found = decode_attention(query, keys, values, slots, lengths, 0.5)
    assert found[0, 2:].isnan().all().item() == spoils
    assert found[0, :2].isfinite().all()
    assert found[1].isfinite().all()
    expected = decode_attention_reference(query, keys, values, slots, lengths, 0.5)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_whole_chunks_of_minus_infinity_add_nothing(device: torch.device) -> None:
    query, keys, values, slots, lengths = sample(1, 2, 2, 600, 8, device=device)
    query[..., 0], keys[..., 0] = 1.0, -200.0  # so that a wrong reference point would overflow
    keys[:, :, 10:, 0] = -math.inf
    found = decode_attention(query, keys, values, slots, lengths, 1.0)
    short = decode_attention(query, keys, values, slots, torch.tensor([10], device=device), 1.0)
    torch.testing.assert_close(found, short, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("batch", "size"), [(0, 20), (2, 0), (0, 0)])
def test_empty(device: torch.device, batch: int, size: int) -> None:
    found = decode_attention(*sample(batch, size=size, device=device), 1.0)
    assert found.shape == (batch, 4, 32)
    assert found.eq(0).all()


def test_reference_mode(device: torch.device) -> None:
    arguments = (*sample(dtype=torch.float16, device=device), 0.25)
    library.set_mode("reference")
    try:
        found = decode_attention(*arguments)
    finally:
        library.set_mode(None)
    assert torch.equal(found, decode_attention_reference(*arguments).half())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 4, 2, 70, 32), (1, 6, 1, 33, 7), (0, 4, 2, 9, 8), (1, 1, 1, 0, 1)])
def test_opcheck(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int, int, int]) -> None:
    arguments = (*sample(*shape, dtype, device), 0.5)
    torch.library.opcheck(torch.ops.secondlook.decode_attention.default, arguments)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_compiles_into_one_graph(device: torch.device, backend: str) -> None:
    def attended(query: Tensor, *cache: Tensor) -> Tensor:
        return decode_attention(query * 2, *cache, 0.1) + 1

    arguments = sample(device=device)
    compiled = torch.compile(attended, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(*arguments), attended(*arguments))


@pytest.mark.needs_cuda
def test_a_graph_replays_with_what_its_inputs_hold_then() -> None:
    query, keys, values, slots, lengths = sample(2, 16, 16, 1300, 64, torch.float16, "cuda")
    decode_attention(query, keys, values, slots, lengths, 0.125)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = decode_attention(query, keys, values, slots, lengths, 0.125)
    for seed, slot, length in ((1, 0, 1300), (2, 4, 400), (3, 3, 0), (4, 1, 64)):
        for mine, other in zip((query, keys, values), sample(2, 16, 16, 1300, 64, seed=seed), strict=False):
            mine.copy_(other)
        slots.fill_(slot), lengths.copy_(torch.tensor([length, 1300 - length]))
        graph.replay()
        assert torch.equal(found, decode_attention(query, keys, values, slots, lengths, 0.125))


@pytest.mark.needs_cuda
def test_slots_and_lengths_on_the_gpu_are_clamped() -> None:
    query, keys, values, _, _ = sample(device="cuda")
    wrong = [torch.tensor(each, device="cuda") for each in ([-5, 2**40, 2], [2**40, -5, 7])]
    right = [torch.tensor(each, device="cuda") for each in ([0, 4, 2], [150, 0, 7])]
    expected = decode_attention(query, keys, values, *right, 0.5)
    assert torch.equal(decode_attention(query, keys, values, *wrong, 0.5), expected)


CACHE = torch.zeros(5, 2, 150, 32)
WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"query": torch.zeros(4, 32)}, ValueError, r"query must be \[B, H, D\], but has shape \[4, 32\]"),
    ({"keys": CACHE[0]}, ValueError, r"keys must be \[S, H_kv, T, D\], but has shape"),
    ({"values": CACHE[0]}, ValueError, r"values must be \[S, H_kv, T, D\], but has shape"),
    ({"slots": torch.tensor(3)}, ValueError, r"slots must have shape \[3\], but has \[\]"),
    ({"lengths": torch.ones(2).long()}, ValueError, r"lengths must have shape \[3\], but has \[2\]"),
    ({"query": torch.zeros(3, 4, 32).double()}, TypeError, "query must be float32, .* but is torch.float64"),
    ({"keys": CACHE.half()}, TypeError, "keys must have the dtype of query, torch.float32, but is .*float16"),
    ({"values": CACHE.half()}, TypeError, "values must have the dtype of query, .*float32, but is .*float16"),
    ({"slots": torch.zeros(3)}, TypeError, "slots must be torch.int64, but is torch.float32"),
    ({"lengths": torch.zeros(3).int()}, TypeError, "lengths must be torch.int64, but is torch.int32"),
    ({"query": torch.zeros(3, 4, 0)}, ValueError, "query must have 1 to 256 elements .* has 0"),
    ({"query": torch.zeros(3, 4, 257)}, ValueError, "query must have 1 to 256 elements .* has 257"),
    ({"query": torch.zeros(3, 5, 32)}, ValueError, "query must have a multiple of the 2 heads .* has 5"),
    ({"query": torch.zeros(3, 0, 32)}, ValueError, "query must have a multiple of the 2 heads .* has 0"),
    ({"keys": CACHE[..., :16]}, ValueError, r"keys must have shape \[S, H_kv, T, 32\], but has"),
    ({"values": CACHE[:4]}, ValueError, r"values must have the shape of keys, \[5, 2, 150, 32\], got \[4, "),
    ({"values": CACHE[:, :, 1:]}, ValueError, r"values must have the shape of keys, .* got \[5, 2, 149, "),
    ({"keys": CACHE[:0], "values": CACHE[:0]}, ValueError, "keys must have at least one slot, but has none"),
    ({"query": torch.zeros(3, 4, 64)[..., ::2]}, ValueError, "query must be contiguous .* stride is 2"),
    ({"keys": torch.zeros(5, 2, 150, 64)[..., ::2]}, ValueError, "keys must be contiguous .* stride is 2"),
    ({"values": torch.zeros(5, 2, 150, 64)[..., ::2]}, ValueError, "values must be contiguous .* is 2"),
    ({"slots": torch.tensor([0, 1, 5])}, ValueError, r"slots must be in \[0, 4\], but holds 5"),
    ({"slots": torch.tensor([0, -1, 2])}, ValueError, r"slots must be in \[0, 4\], but holds -1"),
    ({"lengths": torch.tensor([3, 151, 2])}, ValueError, r"lengths must be in \[0, 150\], but holds 151"),
    ({"lengths": torch.tensor([3, -1, 2])}, ValueError, r"lengths must be in \[0, 150\], but holds -1"),
    ({"scale": math.nan}, ValueError, "scale must be finite in float32, got nan"),
    ({"scale": 1e39}, ValueError, r"scale must be finite in float32, got 1e\+39"),
    ({"slots": torch.zeros(3).long().to("meta")}, ValueError, "slots must be on cpu .* but is on meta"),
]


def changed(change: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    names = ("query", "keys", "values", "slots", "lengths")
    arguments = dict(zip(names, sample(), strict=True)) | {"scale": 1.0} | change
    return {
        name: value.to(device) if isinstance(value, Tensor) and value.device.type != "meta" else value
        for name, value in arguments.items()
    }


@pytest.mark.parametrize(("change", "error", "message"), WRONG)
@pytest.mark.parametrize("mode", ["auto", "reference"])
def test_errors(change: dict[str, Any], error: type[Exception], message: str, mode: library.Mode) -> None:
    library.set_mode(mode)
    try:
        with pytest.raises(error, match=message):
            decode_attention(**changed(change, "cpu"))
    finally:
        library.set_mode(None)


@pytest.mark.parametrize(
    "change", [change for change, _, message in WRONG if "meta" not in message and "holds" not in message]
)
def test_errors_of_the_bare_operator(device: torch.device, change: dict[str, Any]) -> None:
    """From C++, which names what was wrong too."""
    with pytest.raises(RuntimeError, match=rf"{next(iter(change))}.* must|must .*heads of keys"):
        torch.ops.secondlook.decode_attention(**changed(change, device))


@pytest.mark.parametrize("change", [change for change, _, message in WRONG if "holds" in message])
def test_the_bare_operator_looks_at_slots_and_lengths_on_the_cpu(change: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match=rf"{next(iter(change))} must be in \[0, \d+\], but .*\[\d\] is"):
        torch.ops.secondlook.decode_attention(**changed(change, "cpu"))
