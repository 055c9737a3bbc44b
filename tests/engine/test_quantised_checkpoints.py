"""Checkpoints that others quantised: the same weights as their packages read, and the same logits as
transformers has of these."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from engine.checkpoints import Variant, edit_json, write_checkpoint
from engine.looks import drawn
from engine.low_bit_folders import Bits, Form, quantised_pair, settings
from engine.qwen import GOLDEN, publish, words, write_folder
from secondlook.edge.errors import SettingsError
from secondlook.edge.geometry import Size
from secondlook.engine.decode.cache import KVCache
from secondlook.engine.decode.plans import PrefillPlan, Segment
from secondlook.engine.errors import (
    IncompleteModelError,
    InvalidModelError,
    ModelError,
    UnsupportedModelError,
)
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.low_bit import LowBitLinear
from secondlook.engine.models.quantisation_config import Method, Packing
from secondlook.engine.models.quantised_checkpoints import unpacked

LAYER = "language_model.model.layers.0.self_attn.q_proj"
FORMS: tuple[tuple[Form, Bits, bool, str], ...] = (
    ("awq", 4, False, "AWQ int4"),
    ("gptq", 4, True, "GPTQ int4"),
    ("gptq", 8, False, "GPTQ int8"),
    ("gptq_v2", 4, False, "GPTQ int4"),
    ("pack-quantized", 4, True, "compressed-tensors int4"),
    ("pack-quantized", 4, False, "compressed-tensors int4"),
    ("pack-quantized", 8, False, "compressed-tensors int8"),
    ("int-quantized", 8, True, "compressed-tensors int8"),
)
_stored = load_file(GOLDEN.parent / "low_bit.safetensors")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("case", sorted({name.rpartition(".")[0] for name in _stored}))
def test_weights_are_as_the_packages_read_them(case: str) -> None:
    parts = {
        name.rpartition(".")[2]: tensor for name, tensor in _stored.items() if name.startswith(f"{case}.")
    }
    expected = parts.pop("expected").float()
    methods: tuple[Method, ...] = ("awq", "gptq", "compressed-tensors")
    (method,) = (each for each in methods if case.startswith(each))
    found = unpacked(Packing(method, "", "", int(method == "gptq")), parts, (32, 64))
    torch.testing.assert_close(found.dequantised(), expected, rtol=2.0**-11, atol=0)
    assert (found.zeros is None) == (case.endswith(("group", "channel", "tensor", "64")))
    with pytest.raises(ModelError):
        unpacked(Packing(method, "", "", int(method == "gptq")), parts, (40, 64))


def of_decoder(name: str) -> bool:
    return name.endswith("_proj.weight") and "vision" not in name and "visual" not in name


def logits(model: VisionLanguageModel, image: Image.Image, question: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Of the first token of the answer, [V]; and what transformers is given for the same."""
    picture = model.picture(image, model.global_view, Size(*image.size))
    tokens = model.tokens(question)
    prompt = model.prompt(tokens, [picture.grid])
    rows = model.rows(prompt, 0, model.encode([picture]))
    cache = KVCache(model.decoder, 1, len(prompt.ids), model.dtype, model.device)
    found = model.logits(model.hidden(rows, PrefillPlan(cache, [Segment(0, 0, len(rows))])))
    return found[-1], {**model.pixel_inputs([picture]), **model.text_inputs(prompt, tokens)}


def check_same(packed: Path, plain: Path, question: str) -> VisionLanguageModel:
    model = load_model(str(packed), device="cpu", dtype="float32")
    theirs = AutoModelForImageTextToText.from_pretrained(plain, dtype=torch.float32).eval()
    for seed, size in enumerate(((300, 200), (120, 180))):
        with torch.inference_mode():
            found, inputs = logits(model, drawn(size, seed), question)
            expected = theirs(**inputs).logits[0, -1]
        # our own layer rounds scales to 17 bits
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-3 * float(expected.abs().max()))
        assert found.argmax() == expected.argmax()
    return model


@pytest.mark.parametrize(("form", "bits", "symmetric", "told"), FORMS)
def test_a_llava_in_every_form(tmp_path: Path, form: Form, bits: Bits, symmetric: bool, told: str) -> None:
    source = write_checkpoint(tmp_path / "source", Variant(seed=1, kv_heads=2, layers=2))
    packed, plain = quantised_pair(source, tmp_path, form, bits, of_decoder, symmetric=symmetric)
    model = check_same(packed, plain, "What is on the sign?")
    module: Any = model.module
    low = [part for part in module.get_decoder().modules() if isinstance(part, LowBitLinear)]
    assert len(low) == 2 * 7
    assert {part.weights.bits for part in low} == {bits}
    assert not any(isinstance(part, LowBitLinear) for part in module.model.vision_tower.modules())
    assert not isinstance(module.get_output_embeddings(), LowBitLinear)
    assert type(module).__module__.startswith("transformers.")
    assert model.quantised == told
    assert model.precision == f"float32 with {told} weights"
    assert model.digest() != load_model(str(source), device="cpu", dtype="float32").digest()


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("form", ["awq", "gptq", "pack-quantized"])
def test_qwen_under_the_published_names(tmp_path: Path, family: str, form: Form) -> None:
    source = write_folder(tmp_path / "source", family)
    publish(source, family)
    packed, plain = quantised_pair(source, tmp_path, form, 4, of_decoder)
    check_same(packed, plain, words([40, 41]))


def test_a_head_and_a_projector_too(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", Variant(seed=1, layers=2))

    def chosen(name: str) -> bool:
        return of_decoder(name) or "projector.linear_1.weight" in name or "lm_head" in name

    packed, plain = quantised_pair(source, tmp_path, "pack-quantized", 8, chosen)
    module: Any = check_same(packed, plain, "What is on the sign?").module
    assert isinstance(module.get_output_embeddings(), LowBitLinear)
    assert type(module.model.multi_modal_projector.linear_1) is not LowBitLinear
    assert isinstance(module.model.multi_modal_projector.linear_2, nn.Module)


def test_what_old_files_say_beside_the_configuration(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", Variant(seed=1, layers=2))
    packed, plain = quantised_pair(source, tmp_path, "gptq", 4, of_decoder, symmetric=True)
    told = json.loads((packed / "config.json").read_text())["quantization_config"]
    for key in ("quant_method", "checkpoint_format", "lm_head"):
        del told[key]
    edit_json(packed / "config.json", quantization_config=None)
    (packed / "quantize_config.json").write_text(json.dumps(told))
    tensors = load_file(packed / "model.safetensors")  # a bias for each layer, and no g_idx
    zeros = {
        name.replace("qweight", "bias"): torch.zeros(tensor.shape[1]).half()
        for name, tensor in tensors.items()
        if name.endswith("qweight")
    }
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith("g_idx")}
    save_file(kept | zeros, packed / "model.safetensors", {"format": "pt"})
    module: Any = check_same(packed, plain, "What is on the sign?").module
    assert module.get_submodule("model.language_model.layers.0.self_attn.q_proj").bias is None


Change = Callable[[dict[str, Any]], object]


def put(**values: Any) -> Change:
    return lambda told: told.update(values)


def weights(**values: Any) -> Change:
    return lambda told: told["config_groups"]["group_0"]["weights"].update(values)


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("awq", put(bits=3), "AWQ, bits 3"),
        ("awq", put(version="marlin"), "AWQ, version marlin"),
        ("awq", put(zero_point=False), "AWQ, zero_point false"),
        ("gptq", put(bits=3), "GPTQ, bits 3"),
        ("gptq", put(checkpoint_format="marlin"), "GPTQ, checkpoint_format marlin"),
        ("gptq", put(is_marlin_format=True), "GPTQ, is_marlin_format"),
        ("gptq", put(quant_method="bitsandbytes", load_in_4bit=True), "quant_method 'bitsandbytes'"),
        ("gptq", put(quant_method="fp8"), "quant_method 'fp8'"),
        ("pack-quantized", put(format="marlin-24"), "group_0: format marlin-24"),
        ("pack-quantized", put(format="float-quantized"), "group_0: format float-quantized"),
        ("pack-quantized", put(kv_cache_scheme={"num_bits": 8}), "kv_cache_scheme"),
        ("pack-quantized", put(transform_config={"config_groups": {"R1": {}}}), "transform_config"),
        ("pack-quantized", put(sparsity_config={"format": "sparse-24"}), "sparsity_config sparse-24"),
        ("pack-quantized", put(quantization_status="frozen"), "quantization_status frozen"),
        ("pack-quantized", put(config_groups={}), "no config_groups"),
        ("pack-quantized", weights(type="float"), "weights with type float"),
        ("pack-quantized", weights(num_bits=2), "weights with num_bits 2"),
        ("pack-quantized", weights(strategy="block"), "weights with strategy block"),
    ],
)
def test_other_ways_are_refused_by_name(tmp_path: Path, form: Form, change: Change, message: str) -> None:
    folder = write_checkpoint(tmp_path / "model", Variant(layers=2))
    told = settings(form, 4)
    change(told)
    edit_json(folder / "config.json", quantization_config=told)
    with pytest.raises(UnsupportedModelError) as caught:
        load_model(str(folder), device="cpu")
    assert re.search(rf"config.json: quantization_config: .*{message}.* supported are AWQ", str(caught.value))
    assert "\n" not in str(caught.value)


def tensors(**changes: Tensor | None) -> Callable[[Path], None]:
    """Of the first layer; None: taken out."""

    def change(folder: Path) -> None:
        held: dict[str, Any] = load_file(folder / "model.safetensors")
        held |= {f"{LAYER}.{name}": tensor for name, tensor in changes.items()}
        kept = {name: tensor for name, tensor in held.items() if tensor is not None}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})

    return change


@pytest.mark.parametrize(
    ("form", "change", "kind", "message"),
    [
        ("gptq", tensors(g_idx=torch.arange(64).flip(0).int() // 32), UnsupportedModelError, "desc_act"),
        ("gptq", tensors(qzeros=None), IncompleteModelError, "q_proj.qzeros"),
        ("gptq", tensors(scales=torch.full((2, 64), torch.inf).half()), InvalidModelError, "scale is NaN"),
        ("gptq", tensors(scales=torch.ones(4, 64).half()), InvalidModelError, "q_proj: .*not in 4"),
        ("gptq", tensors(scales=torch.ones(3, 64).half()), InvalidModelError, "not in 3 groups"),
        ("gptq", tensors(qweight=torch.zeros(6, 64).int()), UnsupportedModelError, "neither of 4 nor of 8"),
        ("gptq", tensors(qweight=torch.zeros(8, 72).int()), InvalidModelError, "q_proj"),
        ("gptq", tensors(qweight=torch.zeros(8, 64).to(torch.uint8)), UnsupportedModelError, "type U8"),
        ("gptq", tensors(bias=torch.ones(64).half()), InvalidModelError, "has a bias"),
        ("awq", tensors(qweight=torch.zeros(64, 16).int()), UnsupportedModelError, "AWQ of 8 bits"),
        ("pack-quantized", tensors(weight_shape=torch.tensor([64, 60])), InvalidModelError, "weight_shape"),
        ("pack-quantized", tensors(weight_scale=None), IncompleteModelError, "q_proj.weight_scale"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, form: Form, change: Callable[[Path], None], kind: type[ModelError], message: str
) -> None:
    source = write_checkpoint(tmp_path / "source", Variant(layers=2))
    packed, _ = quantised_pair(source, tmp_path, form, 4, of_decoder)
    change(packed)
    with pytest.raises(kind, match=message) as caught:
        load_model(str(packed), device="cpu")
    assert type(caught.value) is kind


def test_a_configuration_without_such_tensors_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", Variant(layers=2))
    edit_json(folder / "config.json", quantization_config=settings("awq", 4))
    with pytest.raises(InvalidModelError, match=r"quantization_config says .* by AWQ, but no tensor"):
        load_model(str(folder), device="cpu")


def test_quantised_weights_are_not_quantised_again_nor_halved(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", Variant(layers=2))
    packed, _ = quantised_pair(source, tmp_path, "awq", 4, of_decoder)
    with pytest.raises(SettingsError, match=r"quantised already .AWQ int4.*to int8 too"):
        load_model(str(packed), device="cpu", quantise="int8")
    with pytest.raises(SettingsError, match="float32 or bfloat16 on a CPU, not float16"):
        load_model(str(packed), device="cpu", dtype="float16")
