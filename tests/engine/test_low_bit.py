"""Linear layers of few bits: what they compute, which layers become such, and what stands for them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import linear

from engine.checkpoints import Variant, write_checkpoint
from secondlook.edge.geometry import Size, sent_size
from secondlook.engine.engine import Engine
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.low_bit import LowBitLinear, quantise_linear_layers
from secondlook.kernels import (
    dynamic_linear_reference,
    multiplies_bytes,
    quantise,
    quantise_float8,
    set_mode,
)

DTYPES = (torch.float32, torch.bfloat16)
KINDS: tuple[tuple[Literal[4, 8], int | None], ...] = ((8, None), (8, 32), (4, 32), (4, 96))


def layer(
    bits: Literal[4, 8] = 4,
    group: int | None = None,
    *,
    inputs: int = 96,
    outputs: int = 90,
    biased: bool = True,
    dtype: torch.dtype = torch.float32,
) -> LowBitLinear:
    generator = torch.Generator().manual_seed(inputs)
    weight = torch.randn(outputs, inputs, generator=generator)
    bias = nn.Parameter(torch.randn(outputs, generator=generator).to(dtype), requires_grad=False)
    return LowBitLinear(quantise(weight, bits, group), bias if biased else None, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("bits", "group"), KINDS)
@pytest.mark.parametrize("shape", [(96,), (1, 96), (3, 1, 96), (5, 96), (16, 96), (2, 150, 96), (0, 96)])
def test_it_multiplies_by_its_weights(
    shape: tuple[int, ...], bits: Literal[4, 8], group: int | None, biased: bool, dtype: torch.dtype
) -> None:
    found = layer(bits, group, biased=biased, dtype=dtype)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.inference_mode():
        result = found(values)
    weight = found.weights.dequantised(torch.float64)
    bias = None if found.bias is None else found.bias.double()
    exact = linear(values.double(), weight, bias)
    products = linear(values.double().abs(), weight.abs(), None if bias is None else bias.abs())
    assert result.dtype == dtype
    assert result.shape == exact.shape
    # of many rows weights are rounded, too
    assert ((result.double() - exact).abs() <= 4 * torch.finfo(dtype).eps * products).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("bits", "group"), KINDS)
def test_weights_are_those_that_were_given(
    bits: Literal[4, 8], group: int | None, dtype: torch.dtype
) -> None:
    given = quantise(torch.randn(90, 96, generator=torch.Generator().manual_seed(96)), bits, group)
    found = LowBitLinear(given, None, dtype)
    assert torch.equal(found.weights.values, given.values)
    torch.testing.assert_close(found.weights.scales, given.scales, rtol=2.0**-16, atol=0)
    assert torch.equal(found.unpacked(), found.weights.dequantised(dtype))
    assert found.weights.bits == bits
    assert found.weights.group == given.group


def test_whatever_a_plain_layer_takes_is_taken() -> None:
    found = layer()
    plain: nn.Module = copy.deepcopy(found)
    assert type(plain) is nn.Linear
    for values in (torch.randn(96, 9).T, torch.randn(9, 192)[:, ::2], torch.randn(1, 96).expand(6, 96)):
        torch.testing.assert_close(found(values), plain(values), rtol=1e-4, atol=1e-4)
    for wrong in (torch.zeros(5, 97), torch.zeros(97), torch.zeros(2, 48)):
        with pytest.raises(RuntimeError):
            found(wrong)


@pytest.mark.skipif(not multiplies_bytes(), reason="this processor has neither VNNI nor AMX")
@pytest.mark.parametrize("mode", [None, "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_of_many_rows_it_rounds_those_as_well(dtype: torch.dtype, mode: Literal["reference"] | None) -> None:
    set_mode(mode)
    try:
        weights = quantise(torch.randn(90, 96, generator=torch.Generator().manual_seed(2)), 8)
        bias = nn.Parameter(torch.ones(90, dtype=dtype), requires_grad=False)
        plain, dynamic = (LowBitLinear(weights, bias, dtype, dynamic=each) for each in (False, True))
        values = torch.randn(2, 20, 96, generator=torch.Generator().manual_seed(1)).to(dtype)
        with torch.inference_mode():
            found, scales = dynamic(values), weights.scales[:, 0]
            exact = dynamic_linear_reference(values.flatten(0, 1), weights.values.T, scales, bias)
            assert torch.equal(dynamic(values[:, :8]), plain(values[:, :8]))
            turned = values[0].T.contiguous().T  # whose last stride is not 1
            assert torch.equal(dynamic(turned), dynamic(values[0]))
    finally:
        set_mode(None)
    assert found.shape == (2, 20, 90)
    apart = (found.flatten(0, 1).double() - exact).abs().max()
    assert apart <= 2 * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, 32)])
def test_only_weights_with_one_scale_for_each_output_do(bits: Literal[4, 8], group: int) -> None:
    with pytest.raises(ValueError, match="one scale for each"):
        LowBitLinear(quantise(torch.randn(64, 64), bits, group), None, torch.float32, dynamic=True)


def test_what_stands_for_it_elsewhere_is_plain() -> None:
    model = nn.ModuleDict({"a": layer(), "b": nn.LayerNorm(90)})
    state = model.state_dict()
    assert list(state) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    copied = copy.deepcopy(model)
    assert type(copied["a"]) is nn.Linear
    assert all(torch.equal(copied.state_dict()[name], value) for name, value in state.items())
    with pytest.raises(TypeError, match="make a deep copy first"):
        model.double()


@pytest.mark.parametrize(("bits", "group", "head"), [(8, None, None), (8, 32, 32), (4, 32, None)])
def test_all_of_a_decoder_and_its_head_become_such(
    tmp_path: Path, bits: Literal[4, 8], group: int | None, head: int | None
) -> None:
    folder = write_checkpoint(tmp_path / "model", Variant(seed=3, kv_heads=2))
    model: Any = copy.deepcopy(load_model(str(folder)).module)
    before = dict(copy.deepcopy(model).state_dict())
    quantise_linear_layers(model, bits, group)
    low = {name: part for name, part in model.named_modules() if isinstance(part, LowBitLinear)}
    decoder = {name for name, part in model.named_modules() if name.endswith("_proj") and ".layers." in name}
    named = {name for name in decoder if "vision" not in name}
    (head_name,) = {name for name in low if low[name] is model.get_output_embeddings()}
    assert set(low) == named | {head_name}
    for name, part in low.items():
        weight = before[f"{name}.weight"]
        expected = quantise(weight, 8, head) if name == head_name else quantise(weight, bits, group)
        torch.testing.assert_close(part.unpacked(), expected.dequantised(), rtol=1e-4, atol=1e-7)
    assert list(model.state_dict()) == list(before)
    assert not any(isinstance(part, LowBitLinear) for part in model.model.vision_tower.modules())


def test_a_group_that_does_not_fit_names_the_layer(tmp_path: Path) -> None:
    model: Any = copy.deepcopy(load_model(str(write_checkpoint(tmp_path / "model"))).module)
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn\.q_proj: .*groups of 48"):
        quantise_linear_layers(model, 4, 48)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 5, 16, 40])
def test_on_a_gpu_it_multiplies_by_its_weights_too(kind: str, dtype: torch.dtype, rows: int) -> None:
    weight = torch.randn(90, 96, device="cuda")
    weights = quantise_float8(weight) if kind == "fp8" else quantise(weight, 8 if kind == "int8" else 4)
    values = torch.randn(2, rows, 96, device="cuda", dtype=dtype)
    found = LowBitLinear(weights, None, dtype)
    with torch.inference_mode():
        result = found(values)
    exact = linear(values.double(), found.weights.dequantised(torch.float64))
    products = linear(values.double().abs(), found.weights.dequantised(torch.float64).abs())
    assert result.dtype == dtype
    assert ((result.double() - exact).abs() <= 4 * torch.finfo(dtype).eps * products).all()


@pytest.mark.needs_cuda
@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
def test_a_gpu_answers_with_few_bits(kind: Any, tmp_path: Path) -> None:
    folder = str(write_checkpoint(tmp_path / "model", Variant()))
    model = load_model(folder, device="cuda", dtype="float16", quantise=kind)
    assert any(isinstance(part, LowBitLinear) for part in model.module.modules())
    original = Size(400, 300)
    view = sent_size(model.global_view, original)
    look = Engine(model).first_look(Image.new("RGB", (view.width, view.height)), "What is it?", original)
    assert look.look.text is not None
