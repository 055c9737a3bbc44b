"""A decoder's layers by operators: which are, that they are transformers' own, and when they are used."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, Qwen2Config, Qwen2Model, Qwen3Config, Qwen3Model
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

from engine.checkpoints import Variant, write_checkpoint
from engine.packing import can_pack
from secondlook.engine.decode.cache import DecoderShape, KVCache
from secondlook.engine.decode.plans import DecodePlan, PrefillPlan, Rows, Segment
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.fused_layers import FusedLayers, fused_layers
from secondlook.engine.models.low_bit import LowBitLinear
from secondlook.engine.models.packing import Choice, pack_linear_layers
from secondlook.kernels import quantise, set_mode

pytestmark = pytest.mark.skipif(not can_pack(torch.float32), reason="no layer is packed here")
SIZES: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "attn_implementation": "secondlook",
}
KINDS = {
    "Llama": lambda: LlamaModel(LlamaConfig(**SIZES)),
    "Qwen2": lambda: Qwen2Model(Qwen2Config(**SIZES)),
    "Qwen3": lambda: Qwen3Model(Qwen3Config(**SIZES, head_dim=32)),
}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}


def decoder(kind: str = "Llama", dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(7)
    model = KINDS[kind]().to(dtype).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def fused(model: Any, *, few: int = 16, many: bool = False) -> FusedLayers | None:
    pack_linear_layers(model, Choice(packed=True, few=few, fused=many))
    return fused_layers(model, DecoderShape.of(model.config), 1)


def drawn(rows: int, model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, model.config.hidden_size, generator=generator).to(model.dtype)


@torch.inference_mode()
def answered(model: Any, ours: FusedLayers | None) -> list[Tensor]:
    """Hidden states of two sequences behind each other, of the first continued, and of a step of both."""
    shape = DecoderShape.of(model.config)
    cache = KVCache(shape, 2, 12, model.dtype, torch.device("cpu"))
    passes = (
        (7, torch.tensor([*range(4), *range(3)]), PrefillPlan(cache, [Segment(0, 0, 4), Segment(1, 0, 3)])),
        (2, torch.tensor([4, 5]), PrefillPlan(cache, [Segment(0, 4, 2)])),
        (2, torch.tensor([6, 3]), DecodePlan(cache, torch.tensor([0, 1]), torch.tensor([6, 3]))),
        (2, torch.tensor([4, 7]), DecodePlan(cache, torch.tensor([1, 0]), torch.tensor([4, 7]))),
    )
    found = []
    for count, positions, plan in passes:
        values = drawn(count, model)
        if ours is None:
            given = {"position_ids": positions[None], "use_cache": False, "attention_plan": plan}
            found.append(model(inputs_embeds=values[None], **given).last_hidden_state[0])
        else:
            found.append(ours.hidden(Rows(values, positions[None]), plan))
    return found


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("few", "many"), [(0, False), (1, False), (16, False), (1, True), (16, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_they_are_transformers_own(kind: str, few: int, many: bool, dtype: torch.dtype) -> None:
    if not can_pack(dtype):
        pytest.skip("no layer of this dtype is packed here")
    expected = answered(decoder(kind, dtype), None)
    model = decoder(kind, dtype)
    ours = fused(model, few=few, many=many)
    assert ours is not None
    assert ours.most == few
    for one, two in zip(answered(model, ours), expected, strict=True):
        assert (one.double() - two.double()).abs().max() <= TOLERANCE[dtype] * two.double().abs().max()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_few_bits_are_multiplied_in_the_step(
    kind: str, bits: Literal[4, 8], dtype: torch.dtype
) -> None:
    model = decoder(kind, dtype)
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear:
            group = 8 if layer.in_features % 32 else 32
            low = LowBitLinear(quantise(layer.weight, bits, group), layer.bias, dtype)
            model.set_submodule(name, low)
    plain = copy.deepcopy(model)
    assert not any(isinstance(part, LowBitLinear) for part in plain.modules())
    expected = answered(plain, None)
    ours = fused_layers(model, DecoderShape.of(model.config), 1)
    assert ours is not None
    assert ours.most == 16
    for one, two in zip(answered(model, ours), expected, strict=True):
        assert (one.double() - two.double()).abs().max() <= TOLERANCE[dtype] * two.double().abs().max()


def test_plain_layers_serve_too_but_for_the_operator_of_a_step() -> None:
    model = decoder()
    ours = fused_layers(model, DecoderShape.of(model.config), 1)
    assert ours is not None
    assert ours.most == 0


def changed(change: str, dtype: torch.dtype) -> Any:
    model = decoder(dtype=dtype)
    for layer in model.layers[2 if change == "activation of the last" else 0 :]:
        if change.startswith("activation"):
            layer.mlp.act_fn = nn.GELU()
        elif change == "norm":
            norm = GemmaRMSNorm(96).to(dtype)
            norm.variance_epsilon = layer.input_layernorm.variance_epsilon
            norm.weight = nn.Parameter(layer.input_layernorm.weight.detach(), requires_grad=False)
            layer.input_layernorm = norm
        elif change == "part":
            layer.scale = nn.Linear(1, 1)
        elif change == "scale":
            layer.self_attn.scaling = "1"
    return model


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("change", ["activation", "activation of the last", "norm", "part"])
def test_others_are_left_alone(change: str, dtype: torch.dtype) -> None:
    """Nor do weights as small as those of a new model hide them."""
    assert fused(decoder(dtype=dtype)) is not None
    assert fused(changed(change, dtype)) is None


@pytest.mark.parametrize("few", [1, 2, 16])
def test_a_step_that_is_not_the_modules_is_found_however_few_rows_it_may_have(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "secondlook.engine.models.fused_layers.decoder_layers", lambda hidden, *_: 1.5 * hidden
    )
    assert fused(decoder(), few=few) is None
    assert fused(decoder(), few=0) is not None


def test_a_product_whose_blocks_cannot_be_read_leaves_the_step_alone() -> None:
    model = decoder()
    pack_linear_layers(model, Choice(packed=True, few=4))
    model.layers[1].mlp.up_proj.blocks = None
    ours = fused_layers(model, DecoderShape.of(model.config), 1)
    assert ours is not None
    assert ours.most == 0


def test_heads_that_are_turned_in_part_are_left_alone() -> None:
    model = decoder()
    turn = model.rotary_emb.forward
    model.rotary_emb.forward = lambda *given: tuple(one[..., :8] for one in turn(*given))
    assert fused(model) is None


def test_nothing_is_fused_where_references_serve() -> None:
    set_mode("reference")
    try:
        assert fused(decoder()) is None
    finally:
        set_mode(None)


def test_nor_other_dtypes_and_devices() -> None:
    model = decoder(dtype=torch.float64)
    assert fused_layers(model, DecoderShape.of(model.config), 1) is None
    model = copy.deepcopy(decoder()).to("meta")
    assert fused_layers(model, DecoderShape.of(model.config), 1) is None


def test_a_loaded_model_computes_so(tmp_path: Path) -> None:
    model: Any = load_model(str(write_checkpoint(tmp_path / "model", Variant(seed=3, kv_heads=2))))
    assert isinstance(model._fused, FusedLayers)
