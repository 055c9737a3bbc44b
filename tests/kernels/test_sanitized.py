"""A few calls of every operator on a GPU, small enough to run under compute-sanitizer (`make gpu-check`)."""

from __future__ import annotations

import pytest
import torch

from secondlook.kernels import (
    attention_row,
    attention_row_reference,
    decode_attention,
    decode_attention_reference,
    find_region,
    find_region_reference,
    pack_quantised,
    quantise,
    quantise_float8,
    quantised_linear,
    quantised_linear_reference,
    record_tokens,
    status,
    token_statistics,
    token_statistics_reference,
)

pytestmark = [pytest.mark.needs_cuda, pytest.mark.usefixtures("compiled")]
CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def compiled() -> None:
    found = status("cuda")
    assert found.source != "reference", found.reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (3, 257), (2, 32064)])
def test_sanitized_token_statistics(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    logits = torch.randn(shape[0], shape[1] + 3, device=CUDA).to(dtype)[:, 1:-2]
    torch.testing.assert_close(
        tuple(token_statistics(logits)), tuple(token_statistics_reference(logits)), rtol=1e-5, atol=1e-6
    )


def test_sanitized_record_tokens() -> None:
    slots, capacity = 3, 4
    logits = torch.randn(2, 9001, device=CUDA)
    tokens = torch.zeros(slots, capacity, dtype=torch.int64, device=CUDA)
    measures = torch.zeros(slots, capacity, 3, device=CUDA)
    means, lengths = torch.zeros(slots, 3, device=CUDA), torch.zeros(slots, dtype=torch.int64, device=CUDA)
    finished = torch.zeros(slots, dtype=torch.bool, device=CUDA)
    following = torch.zeros(2, dtype=torch.int64, device=CUDA)
    arrivals = torch.zeros(2, dtype=torch.int32, device=CUDA)
    chosen = torch.tensor([2, -1], device=CUDA)
    ends, limits = torch.tensor([9000], device=CUDA), torch.full((slots,), capacity, device=CUDA)
    state = {"tokens": tokens, "measures": measures, "means": means, "lengths": lengths, "finished": finished}
    rows = {
        "slots": chosen,
        "end_tokens": ends,
        "limits": limits,
        "next_tokens": following,
        "arrivals": arrivals,
    }
    record_tokens(logits, **rows, **state)
    assert lengths.tolist() == [0, 0, 1]
    assert arrivals.tolist() == [0, 0]
    assert tokens[2, 0] == logits[0].argmax() == following[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("width", [64, 80, 7])
def test_sanitized_attention_row(dtype: torch.dtype, width: int) -> None:
    query, keys = torch.randn(2, 8, width, device=CUDA), torch.randn(2, 2, 301, width, device=CUDA)
    lengths = torch.tensor([301, 17], device=CUDA)
    call = (query.to(dtype), keys.to(dtype), lengths, 5, 149, 0.1)
    torch.testing.assert_close(attention_row(*call), attention_row_reference(*call), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [64, 80, 7])
@pytest.mark.parametrize("kv_heads", [8, 2])
def test_sanitized_decode_attention(dtype: torch.dtype, width: int, kv_heads: int) -> None:
    query, cache = torch.randn(3, 8, width, device=CUDA), torch.randn(2, 4, kv_heads, 301, width, device=CUDA)
    slots, lengths = torch.tensor([2, 0, 2], device=CUDA), torch.tensor([301, 0, 65], device=CUDA)
    call = (query.to(dtype), *cache.to(dtype), slots, lengths, 0.1)
    expected = decode_attention_reference(*call).to(dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(decode_attention(*call), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["4 bits", "8 bits", "float8"])
@pytest.mark.parametrize("count", [1, 3, 16, 17])
def test_sanitized_quantised_linear(count: int, kind: str, dtype: torch.dtype) -> None:
    weight = torch.randn(37, 1120)
    weights = (
        quantise_float8(weight)
        if kind == "float8"
        else quantise(weight, 4 if kind == "4 bits" else 8, 32 if kind == "4 bits" else None)
    )
    values, scales = (tensor.to(CUDA) for tensor in pack_quantised(weights))
    call = (torch.randn(count, 1120, device=CUDA).to(dtype), values, scales, None)
    expected = quantised_linear_reference(*call).to(dtype)
    tolerance = (
        1e-3 if dtype == torch.float32 else 0.2
    )  # sums of 1,120 products, of 17 rows of rounded weights
    torch.testing.assert_close(quantised_linear(*call), expected, rtol=0.02, atol=tolerance)


@pytest.mark.parametrize("side", [12, 24, 90])
def test_sanitized_find_region(side: int) -> None:
    maps = torch.rand(2, 2, side * side, device=CUDA)
    call = (maps[0], maps[1], side, side, torch.tensor([[3000, 2000]] * 2, device=CUDA), 336)
    assert torch.equal(find_region(*call), find_region_reference(*call))
