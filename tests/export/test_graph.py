"""The vision module, eager and exported, beside transformers' own way to the features."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from engine.packing import can_pack
from secondlook.engine.models import clip
from secondlook.engine.models.clip import ClipVision
from secondlook.engine.models.packing import Choice, pack_linear_layers
from secondlook.export.graph import narrowed
from secondlook.kernels import set_mode


def llava(layer: int = -2, *, side: int = 84, projector: str = "gelu", **vision: Any) -> Any:
    """A random LLaVA; Any, because its `get_image_features` and `to` are typed as another's."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "patch_size": 14,
    } | vision
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=side, **sizes).to_dict(),
        text_config=LlamaConfig(
            vocab_size=64, hidden_size=48, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
        ).to_dict(),
        vision_feature_layer=layer,
        projector_hidden_act=projector,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # as they are made, ones and zeros, nothing would show that they were left out
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
    return model


def vision(model: Any) -> ClipVision:
    layer, layers = model.config.vision_feature_layer, model.config.vision_config.num_hidden_layers
    blocks = layer if layer >= 0 else layers + 1 + layer
    return ClipVision(model.model.vision_tower, model.model.multi_modal_projector, blocks)


def pixels(model: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    side = model.config.vision_config.image_size
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)).to(dtype)


def truth(model: Any, values: Tensor) -> Tensor:
    """Transformers' features [n, N, D], in float64."""
    output = model.double().get_image_features(pixel_values=values.double(), return_dict=True)
    return torch.stack(output.pooler_output)


def exported(model: Any, dtype: torch.dtype = torch.float32) -> Any:
    """The module as its graph has it, to be run in torch."""
    module = narrowed(vision(model), dtype)
    return torch.export.export(module, (pixels(model, dtype),)).module()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    "model",
    [
        llava(),
        llava(-1),
        llava(1),
        llava(-4),  # what enters the first block
        llava(num_attention_heads=4, num_hidden_layers=2, hidden_size=64),
        llava(side=90),  # six patches, and a rim that no patch covers
        llava(hidden_act="gelu_pytorch_tanh", projector="gelu_pytorch_tanh", patch_size=12),
    ],
    ids=["usual", "last layer", "first block", "no block", "heads", "rim", "other activations"],
)
def test_it_is_what_transformers_computes_and_exported_too(model: Any) -> None:
    values = pixels(model)
    with torch.inference_mode():
        found = vision(model)(values)
    written = exported(model)(values)
    expected = truth(model, values)
    assert relative_error(found, expected) < 2e-6
    assert relative_error(written, expected) < 2e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_stays_within_the_gate(dtype: torch.dtype, tolerance: float) -> None:
    model = llava()
    values = pixels(model)
    found = exported(model, dtype)(values.to(dtype))
    eager = narrowed(vision(model), dtype)(values.to(dtype))
    assert found.dtype == eager.dtype == dtype
    expected = truth(model, values)
    assert relative_error(found, expected) < tolerance
    assert relative_error(eager, expected) < tolerance


def test_large_activations_do_not_overflow_in_float16() -> None:
    model = llava()
    # Real towers have channels in the hundreds; the square of this one is beyond float16's largest number.
    model.model.vision_tower.encoder.layers[0].mlp.fc2.bias[:2] += 1000
    values = pixels(model)
    found = exported(model, torch.float16)(values.half())
    assert relative_error(found, truth(model, values)) < 5e-3


def test_the_models_own_tensors_are_used_and_never_changed() -> None:
    model = llava()
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert {parameter.data_ptr() for parameter in vision(model).parameters()} <= own
    narrowed(vision(model), torch.float16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_in_eager_torch_it_has_the_bits_of_transformers_modules_or_is_near(any_mode: None) -> None:
    model = llava()
    tower, values = model.model.vision_tower, pixels(model)
    with torch.inference_mode():
        hidden = tower.pre_layrnorm(tower.embeddings(values))
        for block in tower.encoder.layers[:2]:
            hidden = block(hidden, None)
        expected = model.model.multi_modal_projector(hidden[:, 1:])
        assert relative_error(vision(model)(values), expected.double()) < 2e-6
        set_mode("reference")
        assert torch.equal(vision(model)(values), expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu_pytorch_tanh", "gelu"])
@pytest.mark.parametrize("fused", [False, True])
def test_blocks_that_one_operator_computes_are_the_same(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float, activation: str, fused: bool
) -> None:
    """Where that was chosen, and it knows the activation; else modules do."""
    if not can_pack(dtype):
        pytest.skip("no layer of this dtype is packed here")
    model = llava(hidden_act=activation)
    module = vision(copy.deepcopy(model).to(dtype))
    pack_linear_layers(module.blocks, Choice(packed=True, few=16, fused=fused))
    served, encoded = list[bool](), clip.encoded

    def watched(*arguments: Any) -> Tensor | None:
        found = encoded(*arguments)
        served.append(found is not None)
        return found

    monkeypatch.setattr(clip, "encoded", watched)
    values = pixels(model)
    with torch.inference_mode():
        found = module(values.to(dtype))
        assert module(values[:0].to(dtype)).shape == (0, *found.shape[1:])
    assert served == [fused and activation != "gelu", False]
    assert relative_error(found, truth(model, values)) < tolerance
