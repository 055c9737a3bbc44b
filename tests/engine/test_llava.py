"""The adapter against transformers: `generate`'s tokens, eager attention's map, the processor's prompts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from engine.checkpoints import GRID, IMAGE_FIRST_TEMPLATE, IMAGE_SIZE, Variant, write_checkpoint
from secondlook.engine.errors import NonFiniteError
from secondlook.engine.llava import LlavaAdapter
from secondlook.engine.loading import load_model
from secondlook.engine.prompts import GENERIC_QUESTION
from secondlook.engine.vision import TorchVisionEncoder

QUESTION = "What is the number on the sign?"
NEW_TOKENS = 12
VARIANTS = {
    "published": Variant(seed=1, shards=3),
    "gqa-jinja": Variant(seed=2, kv_heads=2, template_file="chat_template.jinja"),
    "mqa-images-first": Variant(seed=3, kv_heads=1, template=IMAGE_FIRST_TEMPLATE),
    "tied-in-processor": Variant(seed=4, tied=True, template_file="processor_config.json"),
    "tied-gqa-shallow": Variant(seed=5, tied=True, kv_heads=2, layers=2, template=IMAGE_FIRST_TEMPLATE),
}


@dataclass
class Pair:
    """One checkpoint, loaded by us and by transformers."""

    folder: Path
    adapter: LlavaAdapter
    processor: LlavaProcessor
    template: str

    def inputs(self, question: str, images: list[Image.Image]) -> Any:
        content: list[dict[str, str]] = [{"type": "image"} for _ in images]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": [*content, {"type": "text", "text": question}]}],
            chat_template=self.template,
            add_generation_prompt=True,
        )
        bos = text.startswith("<s>")
        return self.processor(text=text, images=images, return_tensors="pt", add_special_tokens=not bos)

    def reference(self, attention: str) -> LlavaForConditionalGeneration:
        return LlavaForConditionalGeneration.from_pretrained(
            self.folder, dtype=torch.float32, attn_implementation=attention
        ).eval()


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    variant = VARIANTS[request.param]
    folder = write_checkpoint(tmp_path_factory.mktemp(request.param), variant)
    settings = json.loads((folder / "processor_config.json").read_text())
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        patch_size=settings["patch_size"],
        vision_feature_select_strategy=settings["vision_feature_select_strategy"],
        num_additional_image_tokens=settings["num_additional_image_tokens"],
    )
    return Pair(folder, load_model(str(folder)), processor, variant.template)


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)


def answer(adapter: LlavaAdapter, images: list[Image.Image], limit: int = NEW_TOKENS) -> tuple[int, ...]:
    features = adapter.encode(images)
    prompt = adapter.layout.build(QUESTION, len(images), limit)
    local = features[1] if len(images) == 2 else None
    return adapter.decode(adapter.extend(adapter.prefix(features[0]), prompt, local), limit).token_ids


@pytest.mark.parametrize("images", [1, 2])
def test_prompts_equal_the_processors(pair: Pair, images: int) -> None:
    prompt = pair.adapter.layout.build(QUESTION, images, NEW_TOKENS)
    inputs = pair.inputs(QUESTION, [picture(n) for n in range(images)])
    assert list(prompt.ids) == inputs["input_ids"][0].tolist()
    assert [stop - start for start, stop in prompt.spans] == [GRID * GRID] * images


def test_pixel_values_equal_the_processors(pair: Pair) -> None:
    expected = pair.inputs(QUESTION, [picture(3)])["pixel_values"]
    values = pair.adapter._preprocessing.pixel_values([picture(3)])
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("seed", [10, 20])
def test_tokens_equal_generate(pair: Pair, images: int, seed: int) -> None:
    pictures = [picture(seed + n) for n in range(images)]
    inputs = pair.inputs(QUESTION, pictures)
    generated = pair.reference("sdpa").generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    expected = generated[0, inputs["input_ids"].shape[1] :].tolist()
    assert list(answer(pair.adapter, pictures)) == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("question", [QUESTION, GENERIC_QUESTION])
def test_the_map_equals_eager_attention(pair: Pair, question: str) -> None:
    inputs = pair.inputs(question, [picture(7)])
    with torch.inference_mode():
        output = pair.reference("eager")(**inputs, output_attentions=True)
    layer = pair.adapter.settings.probe_layer
    start, stop = pair.adapter.layout.span
    expected = output.attentions[layer][0, :, -1, start:stop].mean(0)

    prefix = pair.adapter.prefix(pair.adapter.encode([picture(7)])[0])
    prefilled = pair.adapter.extend(prefix, pair.adapter.layout.build(question, 1, 1), probe=True)
    assert prefilled.attention is not None
    assert prefilled.attention.shape == (GRID * GRID,)
    torch.testing.assert_close(prefilled.attention, expected, atol=1e-5, rtol=0)
    assert float((prefilled.attention - expected).abs().max() / expected.max()) < 1e-5
    torch.testing.assert_close(prefilled.logits, output.logits[0, -1], atol=1e-3, rtol=1e-4)


def test_statistics_are_those_of_generates_logits(pair: Pair) -> None:
    inputs = pair.inputs(QUESTION, [picture(1)])
    output = pair.reference("sdpa").generate(
        **inputs,
        max_new_tokens=5,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    features = pair.adapter.encode([picture(1)])
    prefilled = pair.adapter.extend(
        pair.adapter.prefix(features[0]), pair.adapter.layout.build(QUESTION, 1, 5)
    )
    decoded = pair.adapter.decode(prefilled, 5)
    for logits, token in zip(output.logits, decoded.statistics, strict=True):
        p = logits[0].double().softmax(-1)
        assert token.min_entropy == pytest.approx(-float(p.max().log()), abs=1e-4)
        assert token.shannon_entropy == pytest.approx(-float((p * p.log()).sum()), abs=1e-4)
        assert token.margin == pytest.approx(1 - float(p.sort().values[-1] - p.sort().values[-2]), abs=1e-4)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> LlavaAdapter:
    return load_model(str(write_checkpoint(tmp_path_factory.mktemp("prefix"), Variant(seed=6))))


def test_prefix_positions_are_forwarded_once(adapter: LlavaAdapter) -> None:
    forwarded: list[int] = []

    def count(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        forwarded.append(kwargs["inputs_embeds"].shape[1])

    handle = adapter._model.model.language_model.register_forward_pre_hook(count, with_kwargs=True)
    layout = adapter.layout
    own, both = layout.build(QUESTION, 1, 3), layout.build(QUESTION, 2, 3)
    features = adapter.encode([picture(1), picture(2)])
    prefix = adapter.prefix(features[0])
    adapter.extend(prefix, own, probe=True)
    adapter.extend(prefix, layout.generic, probe=True)
    last = adapter.extend(prefix, both, features[1])
    adapter.decode(last, 3)
    handle.remove()
    shared = len(layout.prefix)
    rest = [len(prompt.ids) - shared for prompt in (own, layout.generic, both)]
    assert forwarded == [shared, *rest, 1, 1]
    assert max(rest[:2]) < shared


def test_nothing_that_extends_a_prefix_changes_it(adapter: LlavaAdapter) -> None:
    features = adapter.encode([picture(1), picture(2)])
    prefix = adapter.prefix(features[0])
    before = [(layer.keys.clone(), layer.values.clone()) for layer in prefix.cache.layers]
    prompt = adapter.layout.build(QUESTION, 1, 4)
    first = adapter.extend(prefix, prompt, probe=True)
    first_tokens = adapter.decode(first, 4)
    adapter.decode(adapter.extend(prefix, adapter.layout.build(QUESTION, 2, 4), features[1]), 4)
    assert prefix.cache.get_seq_length() == prefix.length == len(adapter.layout.prefix)
    for (keys, values), layer in zip(before, prefix.cache.layers, strict=True):
        assert torch.equal(keys, layer.keys)
        assert torch.equal(values, layer.values)
    assert adapter.decode(first, 4) == first_tokens
    assert adapter.decode(adapter.extend(prefix, prompt), 4) == first_tokens


def test_its_bytes_are_counted(adapter: LlavaAdapter) -> None:
    prefix = adapter.prefix(adapter.encode([picture(1)])[0])
    assert prefix.nbytes == 4 * 2 * 64 * prefix.length * 4  # layers, keys and values, width, float32


def test_several_pictures_are_encoded_as_each_alone(pair: Pair) -> None:
    together = pair.adapter.encode([picture(1), picture(2)])
    assert together.shape == (2, GRID * GRID, 64)
    alone = torch.cat([pair.adapter.encode([picture(1)]), pair.adapter.encode([picture(2)])])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_decoding_stops_at_each_end_token_and_says_so(tmp_path: Path) -> None:
    free = load_model(str(write_checkpoint(tmp_path / "free", Variant(seed=7))))
    tokens = answer(free, [picture(1)])
    for name, eos in (("one", tokens[2]), ("list", (2, tokens[2]))):
        adapter = load_model(str(write_checkpoint(tmp_path / name, Variant(seed=7, eos=eos))))
        expected = tokens[: tokens.index(tokens[2]) + 1]
        features = adapter.encode([picture(1)])
        prompt = adapter.layout.build(QUESTION, 1, NEW_TOKENS)
        decoded = adapter.decode(adapter.extend(adapter.prefix(features[0]), prompt), NEW_TOKENS)
        assert decoded.token_ids == expected
        assert [token.is_eos for token in decoded.statistics] == [False] * (len(expected) - 1) + [True]


def test_values_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    adapter = load_model(str(write_checkpoint(tmp_path, Variant())))
    adapter._model.lm_head.weight.data[5, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="try dtype float32"):
        answer(adapter, [picture(1)])


def test_another_encoder_can_take_the_vision_towers_place(tmp_path: Path) -> None:
    adapter = load_model(str(write_checkpoint(tmp_path, Variant())))
    torch_encoder = TorchVisionEncoder(adapter._model)
    seen: list[tuple[int, ...]] = []

    def encoder(pixel_values: Tensor) -> Tensor:
        seen.append(tuple(pixel_values.shape))
        return torch_encoder(pixel_values)

    other = LlavaAdapter(
        "other", adapter._model, adapter.layout, adapter._preprocessing, adapter.settings, encoder=encoder
    )
    assert answer(other, [picture(1)]) == answer(adapter, [picture(1)])
    assert seen == [(1, 3, IMAGE_SIZE, IMAGE_SIZE)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_answers(tmp_path: Path, dtype: Any) -> None:
    adapter = load_model(str(write_checkpoint(tmp_path, Variant())), dtype=dtype)
    assert str(adapter.dtype) == f"torch.{dtype}"
    assert len(answer(adapter, [picture(1), picture(2)], 3)) == 3
