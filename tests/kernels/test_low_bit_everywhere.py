"""The code of `low_bit.h` for other processors: of a library each runs its own clones alone."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from pathlib import Path
from typing import Literal

import pytest
import torch

from secondlook.kernels import block_quantised, blocked_linear_reference, build, quantise

SOURCE = """
#include "cpu/vectorised.h"
#undef SECONDLOOK_CLONES
#define SECONDLOOK_CLONES
#include "cpu/low_bit.h"

using namespace secondlook::low_bit;

extern "C" void multiply(const float* x, long rows, const unsigned char* data, long blocks, long stride,
                         long inputs, long group, bool bytes, float* totals, float* to) {
  const Spans spans{inputs, group};
  add_up(x, inputs, rows, spans, totals);
  for (long block = 0; block < blocks; ++block) {
    multiply_block(x, inputs, totals, rows, spans, bytes, data + block * stride, to + block * rows * kWidth);
  }
}
"""
LEVELS = {"default": (), "x86-64-v3": ("AVX2", "AVX512"), "x86-64-v4": ("AVX512",)}
"""What torch calls the processors that have each."""


@pytest.fixture(scope="module", params=LEVELS)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    level: str = request.param
    if level != "default":
        if platform.machine() not in ("x86_64", "AMD64"):
            pytest.skip("not of this architecture")
        if torch.backends.cpu.get_cpu_capability() not in LEVELS[level]:
            pytest.skip(f"this processor is no {level}")
    folder = tmp_path_factory.mktemp(level)
    source, library = folder / "multiply.cpp", folder / "multiply.so"
    source.write_text(SOURCE)
    parameters = build.build_parameters("cpu")
    flags = ["-O2", "-std=c++20", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    flags += [f"-march={level}"] if level != "default" else []
    csrc = Path(build.__file__).parent / "csrc"
    subprocess.run([*parameters.compiler, *flags, "-I", csrc, source, "-o", library], check=True)
    return ctypes.CDLL(str(library))


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 1536), (8, 1536), (8, 32), (8, 3)])
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_float64(compiled: ctypes.CDLL, bits: Literal[4, 8], group: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    weights = quantise(torch.randn(128, 1536, generator=generator), bits, group)
    x, blocks = torch.randn(rows, 1536, generator=generator), block_quantised(weights)
    totals, found = torch.empty(rows, 1536), torch.full((2, rows, 64), float("nan"))
    counts = map(ctypes.c_long, (2, blocks.stride(0), 1536, group))
    compiled.multiply(
        *(ctypes.c_void_p(x.data_ptr()), ctypes.c_long(rows), ctypes.c_void_p(blocks.data_ptr()), *counts),
        *(ctypes.c_bool(bits == 8), ctypes.c_void_p(totals.data_ptr()), ctypes.c_void_p(found.data_ptr())),
    )
    exact = blocked_linear_reference(x, blocks, None, 128)
    most = blocked_linear_reference(
        x.abs(), block_quantised(quantise(weights.dequantised().abs(), 8)), None, 128
    )
    assert ((found.transpose(0, 1).flatten(1).double() - exact).abs() <= 3e-6 * most).all()
