"""token_statistics against its reference, against softmax in float64, and at the edges of floating point."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from secondlook.kernels import library
from secondlook.kernels.token_statistics import NextToken, token_statistics, token_statistics_reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SMALLEST = torch.finfo(torch.float32).tiny
CASES = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def noise(rows: int, vocabulary: int, scale: float = 5.0, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


def check(logits: Tensor, device: torch.device) -> NextToken:
    """The operator equals the float64 reference of the same values: 1e-5 relative, in every dtype."""
    placed = logits.to(device) if logits.device != device else logits
    before = placed.clone()
    found = token_statistics(placed)
    torch.testing.assert_close(placed, before, rtol=0, atol=0, equal_nan=True)
    exact = token_statistics_reference(logits.cpu().double())
    assert found.token.dtype == torch.int64
    assert found.token.tolist() == exact.token.tolist()
    for name in ("min_entropy", "shannon_entropy", "margin"):
        value, expected = getattr(found, name), getattr(exact, name)
        assert value.dtype == torch.float32
        assert value.device == placed.device
        torch.testing.assert_close(
            value.cpu().double(),
            expected,
            rtol=1e-5,
            atol=SMALLEST,
            equal_nan=True,
        )
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [1, 2, 3, 15, 16, 17, 1023, 1025, 4096, 4097, 8193, 32064, 152064])
@pytest.mark.parametrize("scale", [0.01, 5.0, 40.0])
def test_equals_the_reference(
    device: torch.device, dtype: torch.dtype, vocabulary: int, scale: float
) -> None:
    check(noise(3, vocabulary, scale).to(dtype), device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_definitions_by_softmax(device: torch.device, dtype: torch.dtype) -> None:
    logits = noise(4, 32064, 2.0).to(dtype)
    found = token_statistics(logits.to(device))
    p = torch.softmax(logits.double(), dim=1)
    largest = p.topk(2, dim=1).values
    assert found.token.tolist() == p.argmax(dim=1).tolist()
    for value, expected in zip(
        found[1:],
        (-largest[:, 0].log(), -(p * p.log()).sum(dim=1), 1 - (largest[:, 0] - largest[:, 1])),
        strict=True,
    ):
        torch.testing.assert_close(value.cpu().double(), expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_tokens_count_for_nothing(device: torch.device, dtype: torch.dtype) -> None:
    logits = noise(5, 999).to(dtype)
    kept = torch.arange(999) % 7 != 0
    found = token_statistics(logits.masked_fill(~kept, -math.inf).to(device))
    without = token_statistics(logits[:, kept].to(device))
    for value, expected in zip(found[1:], without[1:], strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)


@given(
    rows=st.integers(0, 4),
    vocabulary=st.integers(1, 40) | st.integers(4000, 4200) | st.integers(8100, 8300),
    padding=st.integers(0, 9),
    offset=st.integers(0, 9),
    dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from([0.0, 0.1, 3.0, 30.0, 1e4]),
    masked=st.sampled_from([0.0, 0.5, 0.99]),
    seed=st.integers(0, 1000),
)
@example(1, 8200, 3, 1, torch.bfloat16, 3.0, 0.5, 0)
@CASES
def test_any_shape_stride_and_alignment(
    device: torch.device,
    rows: int,
    vocabulary: int,
    padding: int,
    offset: int,
    dtype: torch.dtype,
    scale: float,
    masked: float,
    seed: int,
) -> None:
    stride = vocabulary + padding
    storage = noise(1, rows * stride + offset + 1, scale, seed).to(dtype)[0].to(device)
    storage[
        torch.rand(storage.shape, generator=torch.Generator().manual_seed(seed)).to(device) < masked
    ] = -math.inf
    check(storage.as_strided((rows, vocabulary), (stride, 1), offset), device)


@given(
    st.lists(
        st.floats(width=32, allow_nan=True, allow_infinity=True)
        | st.sampled_from([0.0, -0.0, 1e4, -1e4, math.inf, -math.inf, math.nan, 3.4e38, -3.4e38, 1e-45]),
        min_size=1,
        max_size=70,
    )
)
@CASES
def test_any_values(device: torch.device, values: list[float]) -> None:
    check(torch.tensor([values], dtype=torch.float32), device)


@pytest.mark.parametrize("vocabulary", [2, 1500, 32064])
@pytest.mark.parametrize("gap", [1.0, 20.0, 50.0, 69.0, 80.0])
def test_sure_tokens_keep_their_relative_precision(device: torch.device, vocabulary: int, gap: float) -> None:
    logits = torch.full((2, vocabulary), -gap)
    logits[0, vocabulary // 2] = logits[1, -1] = 0
    found = check(logits, device)
    s = (vocabulary - 1) * math.exp(-gap)
    assert found.min_entropy.tolist() == pytest.approx([math.log1p(s)] * 2, rel=1e-5)
    assert all(value > 0 for value in found.margin.tolist())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [1, 3, 32064])
@pytest.mark.parametrize("value", [0.0, -0.0, 1e4, -1e4])
def test_equal_logits(device: torch.device, dtype: torch.dtype, vocabulary: int, value: float) -> None:
    found = check(torch.full((2, vocabulary), value, dtype=dtype), device)
    assert found.token.tolist() == [0, 0]
    assert found.min_entropy.tolist() == pytest.approx([math.log(vocabulary)] * 2, rel=1e-5)
    assert found.shannon_entropy.tolist() == pytest.approx([math.log(vocabulary)] * 2, rel=1e-5)
    assert found.margin.tolist() == [1.0 if vocabulary > 1 else 0.0] * 2


def test_rising_and_falling_logits(device: torch.device) -> None:
    rising = torch.arange(40000, dtype=torch.float32) * 1e-3
    check(torch.stack([rising, rising.flip(0), rising * 100]), device)


@pytest.mark.parametrize("vocabulary", [5, 9000])
def test_ties_go_to_the_lowest_index(device: torch.device, vocabulary: int) -> None:
    logits = noise(2, vocabulary).clamp(max=8)
    logits[0, [1, 3, vocabulary - 1]] = 9
    logits[1, [vocabulary - 2, vocabulary - 1]] = 9
    found = check(logits, device)
    assert found.token.tolist() == [1, vocabulary - 2]
    zeros = torch.full((1, vocabulary), -0.0)
    zeros[0, -1] = 0.0
    assert token_statistics(zeros.to(device)).token.tolist() == [0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [5, 33, 20000])
def test_rows_without_a_distribution(device: torch.device, dtype: torch.dtype, vocabulary: int) -> None:
    last = vocabulary - 1
    logits = noise(6, vocabulary).to(dtype)
    logits[0, [2, last]] = math.nan
    logits[1, [3, last]] = math.inf
    logits[2] = -math.inf
    logits[3, 1], logits[3, [4, last]] = math.inf, math.nan
    logits[4] = -math.inf
    logits[4, last] = -1
    found = check(logits, device)
    assert found.token.tolist()[:5] == [2, 3, 0, 4, last]
    assert torch.stack(found[1:])[:, :4].isnan().all()
    assert torch.stack(found[1:])[:, 4].tolist() == [0.0, 0.0, 0.0]
    assert torch.stack(found[1:])[:, 5].isfinite().all()


def test_empty_batch(device: torch.device) -> None:
    found = token_statistics(torch.empty(0, 7, device=device))
    assert [tuple(value.shape) for value in found] == [(0,)] * 4


def test_a_row_depends_on_nothing_else(device: torch.device) -> None:
    logits = noise(7, 20000).to(device)
    together = token_statistics(logits)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for row in range(7):
            alone = token_statistics(logits[row : row + 1])
            for value, expected in zip(alone, together, strict=True):
                assert value.item() == expected[row].item()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [33, 8201])
def test_a_row_has_the_same_bits_wherever_it_lies(
    device: torch.device, dtype: torch.dtype, vocabulary: int
) -> None:
    row = noise(1, vocabulary).to(device, dtype)
    expected = token_statistics(row)
    for offset in range(1, 9):  # from an address that is no multiple of 16 bytes, but for the last
        storage = torch.zeros(vocabulary + offset, device=device, dtype=dtype)
        storage[offset:] = row[0]
        found = token_statistics(storage[offset:][None])
        assert [value.item() for value in found] == [value.item() for value in expected]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (3, 20), (2, 9000)])
def test_opcheck(device: torch.device, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    logits = noise(*shape).to(device, dtype)
    operator = torch.ops.secondlook.token_statistics.default
    torch.library.opcheck(operator, (logits,))
    torch.library.opcheck(operator, (noise(shape[0], shape[1] + 3).to(device, dtype)[:, : shape[1]],))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # inductor's imports
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_as_one_graph(device: torch.device, backend: str) -> None:
    @torch.compile(fullgraph=True, backend=backend)
    def doubled(logits: Tensor) -> tuple[Tensor, Tensor]:
        found = token_statistics(logits * 2)
        return found.token, found.margin + 1

    logits = noise(3, 500).to(device)
    found = token_statistics(logits * 2)
    token, margin = doubled(logits)
    assert token.tolist() == found.token.tolist()
    torch.testing.assert_close(margin, found.margin + 1)


def test_gradients_do_not_flow(device: torch.device) -> None:
    logits = noise(2, 30).to(device).requires_grad_()
    assert not any(value.requires_grad for value in token_statistics(logits))


def test_reference_mode() -> None:
    logits = noise(3, 50)
    library.set_mode("reference")
    try:
        found = token_statistics(logits)
    finally:
        library.set_mode(None)
    for value, expected in zip(found, token_statistics_reference(logits), strict=True):
        assert value.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.float64), TypeError, "logits must be float32.*not torch.float64"),
        (torch.zeros(2, 3, dtype=torch.int64), TypeError, "logits must be float32.*not torch.int64"),
        (torch.zeros(3), ValueError, r"logits must be \[B, V\].*\[3\]"),
        (torch.zeros(2, 0), ValueError, r"at least one token.*\[2, 0\]"),
        (torch.zeros(3, 2).T, ValueError, r"contiguous in V.*\[1, 2\]"),
    ],
)
def test_errors(logits: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        token_statistics(logits)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), "logits must be float32, float16 or bfloat16"),
        (torch.zeros(3), r"logits must be \[B, V\], but has 1 dimension"),
        (torch.zeros(2, 0), r"at least one token, but its shape is \[2, 0\]"),
        (torch.zeros(3, 2).T, "logits must be contiguous in its last dimension, but its stride is 2"),
    ],
)
def test_errors_of_the_operator_itself(device: torch.device, logits: Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.secondlook.token_statistics(logits.to(device))


@pytest.mark.needs_cuda
@pytest.mark.parametrize("vocabulary", [500, 32064])
def test_cuda_graph(vocabulary: int) -> None:
    logits = noise(2, vocabulary).cuda()
    token_statistics(logits)  # loads the library
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = token_statistics(logits)
    for seed in range(3):
        fresh = noise(2, vocabulary, seed=seed)
        logits.copy_(fresh)
        graph.replay()
        exact = token_statistics_reference(fresh.double())
        assert found.token.tolist() == exact.token.tolist()
        torch.testing.assert_close(found.margin.cpu().double(), exact.margin, rtol=1e-5, atol=0)
