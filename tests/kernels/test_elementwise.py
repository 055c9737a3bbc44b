"""Norms, rotations, gates and writing to a cache: PyTorch's operations, float64, strides, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import rms_norm as torchs_rms_norm
from torch.nn.functional import silu
from transformers.activations import QuickGELUActivation
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from secondlook.kernels import (
    gated_silu,
    gated_silu_reference,
    library,
    quick_gelu,
    quick_gelu_reference,
    rms_norm,
    rms_norm_reference,
    rotate,
    rotate_reference,
    write_cache,
)

DTYPES = (torch.float32, torch.bfloat16)
ROUNDINGS = {torch.float32: 1e-6, torch.bfloat16: 2.0**-7}


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert library.status("cpu").source != "reference"


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return (3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def near(found: Tensor, exact: Tensor, size: Tensor | None = None) -> None:
    assert exact.dtype == torch.float64
    assert found.shape == exact.shape
    room = ROUNDINGS[found.dtype] * (exact.abs() if size is None else size) + 1e-9
    assert ((found.double() - exact).abs() <= room).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size"), [(1, 1), (3, 16), (5, 37), (40, 1024), (0, 8)])
def test_norms(dtype: torch.dtype, rows: int, size: int) -> None:
    x, weight = drawn(rows, size + 5, dtype=dtype)[:, :size], drawn(size, dtype=dtype, seed=1)
    exact = rms_norm_reference(x, weight, 1e-5)
    torch.testing.assert_close(exact, torchs_rms_norm(x.double(), (size,), weight.double(), 1e-5))
    near(rms_norm(x, weight, 1e-5), exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "heads", "width"), [(1, 1, 2), (3, 4, 64), (50, 3, 130), (0, 2, 8)])
def test_rotations(dtype: torch.dtype, rows: int, heads: int, width: int) -> None:
    x = drawn(heads, rows, width, dtype=dtype).transpose(0, 1)
    angles = drawn(rows, width // 2, seed=2).repeat(1, 2)
    cosine, sine = angles.cos().to(dtype), angles.sin().to(dtype)
    exact = rotate_reference(x, cosine, sine)
    theirs, _ = apply_rotary_pos_emb(
        *(x.double().transpose(0, 1)[None],) * 2, cosine.double()[None], sine.double()[None]
    )
    torch.testing.assert_close(exact, theirs[0].transpose(0, 1))
    found = rotate(x, cosine, sine)
    assert found.is_contiguous()
    near(found, exact, x.double().abs().amax().expand(exact.shape) if rows else None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 15, 16, 31, 32, 33, 4096, 9001])
def test_gates(dtype: torch.dtype, size: int) -> None:
    gate, up = drawn(2, size, dtype=dtype), drawn(2, size, dtype=dtype, seed=3)
    torch.testing.assert_close(gated_silu_reference(gate, up), silu(gate.double()) * up.double())
    near(gated_silu(gate, up), gated_silu_reference(gate, up))
    torch.testing.assert_close(quick_gelu_reference(gate), QuickGELUActivation()(gate.double()))
    near(quick_gelu(gate), quick_gelu_reference(gate))


@pytest.mark.parametrize("gate", [quick_gelu, lambda x: gated_silu(x, torch.ones_like(x))])
@pytest.mark.parametrize("dtype", DTYPES)
def test_extremes(gate: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    extremes = [float("nan"), float("inf"), 100.0, 0.0, -0.0, -100.0, -1e30]
    values = torch.tensor([extremes * 5], dtype=dtype)
    found = gate(values)[0, : len(extremes)].float()
    assert found[0].isnan()
    assert found[1:4].tolist() == [float("inf"), 100.0, 0.0]
    assert (found[4:].abs() < 1e-30).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cache_is_written_where_it_was_said_and_nowhere_else(dtype: torch.dtype) -> None:
    keys, values = (drawn(4, 3, 9, 8, dtype=dtype, seed=seed) for seed in (0, 1))
    before = keys.clone(), values.clone()
    new = [drawn(3, 2, 8, dtype=dtype, seed=seed).transpose(0, 1) for seed in (2, 3)]  # [2, 3, 8]
    slots, places = torch.tensor([3, 0]), torch.tensor([8, 0])
    write_cache(keys, values, *new, slots, places)
    for cache, old, rows in zip((keys, values), before, new, strict=True):
        old[slots, :, places] = rows
        assert torch.equal(cache, old)
    with pytest.raises(RuntimeError, match=r"places must be in \[0, 8\]"):
        write_cache(keys, values, *new, slots, torch.tensor([9, 0]))


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda: rms_norm(drawn(3), drawn(3), 1e-5), ValueError, "input"),
        (lambda: rms_norm(drawn(2, 3), drawn(4), 1e-5), ValueError, "weight"),
        (lambda: rms_norm(drawn(2, 3), drawn(3), float("nan")), ValueError, "epsilon"),
        (lambda: rms_norm(drawn(2, 3).double(), drawn(3), 1e-5), TypeError, "input"),
        (lambda: rotate(drawn(2, 3, 5), drawn(2, 5), drawn(2, 5)), ValueError, "input"),
        (lambda: rotate(drawn(2, 3, 4), drawn(3, 4), drawn(2, 4)), ValueError, "cosine"),
        (lambda: rotate(drawn(2, 3, 4), drawn(2, 4), drawn(2, 4).bfloat16()), TypeError, "sine"),
        (lambda: gated_silu(drawn(4, 2).T, drawn(2, 4)), ValueError, "gate"),
        (lambda: gated_silu(drawn(2, 4), drawn(2, 5)), ValueError, "up"),
        (lambda: quick_gelu(drawn(4, 2).T), ValueError, "input"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        call()
