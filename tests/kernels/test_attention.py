"""Attention of many rows on the CPU: float64, torch's own, strides, causality, bits, and what is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from repository import package
from secondlook.kernels import attention, attention_reference, library
from secondlook.kernels.build import build_parameters

DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7}


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert library.status("cpu").source != "reference"


def sample(
    heads: int, kv_heads: int, rows: int, positions: int, width: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + positions)
    shapes = ((2, heads, rows, width), *((2, kv_heads, positions, width),) * 2)
    query, keys, values = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return query, keys, values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "rows", "positions", "width"),
    [
        *((1, 1, 1, 1, 1), (4, 2, 5, 5, 64), (6, 2, 7, 33, 48), (3, 1, 9, 200, 130), (2, 2, 70, 129, 16)),
        *((2, 1, 64, 64, 128), (2, 2, 3, 65, 256)),
    ],
)
def test_float64_and_torchs_own(
    dtype: torch.dtype, causal: bool, heads: int, kv_heads: int, rows: int, positions: int, width: int
) -> None:
    query, keys, values = sample(heads, kv_heads, rows, positions, width, dtype)
    found = attention(query, keys, values, 0.3, causal)
    exact = attention_reference(query, keys, values, 0.3, causal)
    seen = torch.ones(rows, positions, dtype=torch.bool).tril(positions - rows) if causal else None
    own = scaled_dot_product_attention(
        *(one.double() for one in (query, keys, values)), attn_mask=seen, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(exact, own.transpose(1, 2))
    assert (found.shape, found.dtype) == ((2, rows, heads, width), dtype)
    assert found.is_contiguous()
    assert (found.double() - exact).abs().max() <= TOLERANCE[dtype] * values.double().abs().max()


def test_rows_and_caches_may_lie_apart() -> None:
    query, keys, values = sample(4, 2, 6, 40, 32)
    expected = attention(query, keys, values, 0.2, True)
    apart = [
        torch.full((2, one.shape[2] + 3, one.shape[1], 50), float("nan")).transpose(1, 2)[
            :, :, : one.shape[2], :32
        ]
        for one in (query, keys, values)
    ]
    for to, one in zip(apart, (query, keys, values), strict=True):
        to.copy_(one)
    assert torch.equal(attention(*apart, 0.2, True), expected)


def test_bits_do_not_depend_on_threads() -> None:
    given, threads = sample(5, 5, 41, 90, 64), torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(attention(*given, 0.2, True))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_later_positions_do_not_matter_where_it_is_causal() -> None:
    query, keys, values = sample(2, 2, 8, 8, 32)
    first = attention(query[:, :, :4], keys[:, :, :4], values[:, :, :4], 0.2, True)
    assert torch.equal(attention(query, keys, values, 0.2, True)[:, :4], first)


@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_any_finite_scale(scale: float) -> None:
    query, keys, values = sample(2, 1, 5, 70, 16)
    found, exact = (each(query, keys, values, scale, False) for each in (attention, attention_reference))
    torch.testing.assert_close(found, exact.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"query": torch.zeros(1, 2, 3)}, ValueError, "query"),
        ({"query": torch.zeros(1, 3, 3, 8)}, ValueError, "query"),
        ({"query": torch.zeros(1, 2, 3, 8, dtype=torch.float16)}, TypeError, "query"),
        ({"keys": torch.zeros(1, 2, 4, 7)}, ValueError, "keys"),
        ({"values": torch.zeros(1, 2, 5, 8)}, ValueError, "values"),
        ({"values": torch.zeros(1, 2, 4, 8, dtype=torch.bfloat16)}, TypeError, "values"),
        ({"values": torch.zeros(1, 2, 8, 4).transpose(2, 3)}, ValueError, "values"),
        ({"query": torch.zeros(1, 2, 5, 8), "causal": True}, ValueError, "keys"),
        ({"scale": float("nan")}, ValueError, "scale"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], error: type[Exception], named: str) -> None:
    given = {
        "query": torch.zeros(1, 2, 3, 8),
        "keys": torch.zeros(1, 2, 4, 8),
        "values": torch.zeros(1, 2, 4, 8),
        "scale": 1.0,
        "causal": False,
    }
    with pytest.raises(error, match=named):
        attention(**{**given, **change})


PROGRAM = """
#include <cstdio>
#include <fstream>
#include <vector>

#include "cpu/attention.h"

using namespace secondlook;

int main(int, char** names) {
  std::int64_t size[6];
  std::ifstream from(names[1], std::ios::binary);
  from.read(reinterpret_cast<char*>(size), sizeof(size));
  const auto [heads, kv_heads, rows, positions, width, causal] = size;
  std::vector<BFloat16> query(heads * rows * width), keys(kv_heads * positions * width), values(keys);
  for (auto* each : {&query, &keys, &values}) {
    from.read(reinterpret_cast<char*>(each->data()), 2 * each->size());
  }
  std::vector<BFloat16> result(query.size());
  attention::Call<BFloat16> call{
      query.data(), keys.data(), values.data(), 1, heads, kv_heads, rows, positions, width,
      {0, rows * width, width}, {0, positions * width, width}, {0, positions * width, width},
      0.3f, causal != 0, result.data()};
  std::vector<float> memory(attention::scratch_of_a_head<float>(call));
  attention::run_attend(call, 0, heads, memory.data());
  std::ofstream(names[2], std::ios::binary).write(reinterpret_cast<char*>(result.data()), 2 * result.size());
}
"""


@pytest.fixture(scope="module")
def in_float32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that attends in bfloat16 as where the processor has no products of that."""
    folder = tmp_path_factory.mktemp("attention")
    (folder / "main.cpp").write_text(PROGRAM)
    sources = package("kernels") / "csrc"
    compiler = build_parameters("cpu").compiler
    command = [*compiler, "-O1", "-std=c++20", f"-I{sources}", str(folder / "main.cpp")]
    subprocess.run([*command, "-o", str(folder / "attend")], check=True)
    return folder / "attend"


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("kv_heads", "rows", "positions", "width"), [(2, 7, 33, 48), (1, 70, 129, 77)])
def test_processors_that_do_not_multiply_bfloat16(
    in_float32: Path, causal: bool, kv_heads: int, rows: int, positions: int, width: int
) -> None:
    given = [one[:1] for one in sample(4, kv_heads, rows, positions, width, torch.bfloat16)]
    sizes = torch.tensor([4, kv_heads, rows, positions, width, causal])
    file = in_float32.with_name("input")
    file.write_bytes(b"".join(bytes(one.clone().untyped_storage()) for one in (sizes, *given)))
    subprocess.run([in_float32, file, file.with_name("output")], check=True)
    flat = torch.frombuffer(bytearray(file.with_name("output").read_bytes()), dtype=torch.bfloat16)
    found = flat.view(1, rows, 4, width)
    exact = attention_reference(*given, 0.3, causal)
    assert (found.double() - exact).abs().max() <= TOLERANCE[torch.bfloat16] * given[2].abs().max()
    # both round the result once, and one of them the weights, too
    assert (found.float() - attention(*given, 0.3, causal).float()).abs().max() <= 0.02
