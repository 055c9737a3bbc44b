"""The adapter under a decoder against transformers: `generate`'s tokens, eager attention's map, the
processor's prompts."""

from __future__ import annotations

import json
import math
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
from secondlook.edge.geometry import Size
from secondlook.engine.decode.cache import KVCache
from secondlook.engine.decode.decoder import Decoder, Prompted
from secondlook.engine.decode.plans import PrefillPlan, Segment
from secondlook.engine.decode.record import Decoded
from secondlook.engine.models.base import Features
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.llava import Llava
from secondlook.engine.models.pictures import Picture
from secondlook.engine.models.prompts import GENERIC_QUESTION

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
    adapter: Llava
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


def prompted(adapter: Llava, images: list[Image.Image], limit: int, question: str = QUESTION) -> Prompted:
    """A whole prompt for slot 0."""
    prompt = adapter.prompt(adapter.tokens(question), [(GRID, GRID)] * len(images))
    rows = adapter.rows(prompt, 0, adapter.encode([shown(adapter, image) for image in images]))
    return Prompted(0, 0, rows, prompt.spans[0], prompt.delta, limit)


def shown(adapter: Llava, image: Image.Image) -> Picture:
    return adapter.picture(image, adapter.global_view, Size(*image.size))


def answer(adapter: Llava, images: list[Image.Image], limit: int = NEW_TOKENS) -> Decoded:
    decoder = Decoder(adapter, slots=1, capacity=256, most_new_tokens=limit)
    decoder.prefill([prompted(adapter, images, limit)])
    while not decoder.record.finished[0]:
        decoder.step([0])
    return decoder.record.read(0)


@pytest.mark.parametrize("images", [1, 2])
def test_prompts_equal_the_processors(pair: Pair, images: int) -> None:
    prompt = pair.adapter.prompt(pair.adapter.tokens(QUESTION), [(GRID, GRID)] * images)
    inputs = pair.inputs(QUESTION, [picture(n) for n in range(images)])
    assert list(prompt.ids) == inputs["input_ids"][0].tolist()
    assert [stop - start for start, stop in prompt.spans] == [GRID * GRID] * images


def test_pixel_values_equal_the_processors(pair: Pair) -> None:
    expected = pair.inputs(QUESTION, [picture(3)])["pixel_values"]
    pictures = [shown(pair.adapter, picture(3))]
    values = pair.adapter.normalisation.on(torch.device("cpu"))(pictures)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)


def test_a_picture_alone_is_moved_to_the_device(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and std are there: they were put there once, for the model."""
    moved: list[int] = []

    def counted(values: torch.Tensor, device: torch.device) -> torch.Tensor:
        moved.append(values.numel())
        return values.to(device)

    monkeypatch.setattr("secondlook.engine.models.pictures.to_device", counted)
    pictures = [shown(pair.adapter, picture(number)) for number in range(2)]
    pair.adapter.encode(pictures)
    assert moved == [sum(one.pixels.numel() for one in pictures)]


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("seed", [10, 20])
def test_tokens_equal_generate(pair: Pair, images: int, seed: int) -> None:
    pictures = [picture(seed + n) for n in range(images)]
    inputs = pair.inputs(QUESTION, pictures)
    generated = pair.reference("sdpa").generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    expected = generated[0, inputs["input_ids"].shape[1] :].tolist()
    assert list(answer(pair.adapter, pictures).token_ids) == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("question", [QUESTION, GENERIC_QUESTION])
def test_the_map_equals_eager_attention(pair: Pair, question: str) -> None:
    inputs = pair.inputs(question, [picture(7)])
    with torch.inference_mode():
        output = pair.reference("eager")(**inputs, output_attentions=True)
    layer = pair.adapter.localisation.deepest
    start, stop = pair.adapter.prompt(pair.adapter.tokens(question), [(GRID, GRID)]).spans[0]
    expected = output.attentions[layer][0, :, -1, start:stop].mean(0)

    decoder = Decoder(pair.adapter, slots=1, capacity=128, most_new_tokens=1, probe=pair.adapter.probe())
    prompt = prompted(pair.adapter, [picture(7)], 1, question)
    for rows in (decoder.prefill([prompt], probe=True), decoder.attention_rows([prompt])):
        assert [row.shape for row in rows] == [(GRID * GRID,)]
        torch.testing.assert_close(rows[0], expected, atol=1e-5, rtol=0)
        assert float((rows[0] - expected).abs().max() / expected.max()) < 1e-5


def test_logits_equal_transformers(pair: Pair) -> None:
    with torch.inference_mode():
        expected = pair.reference("eager")(**pair.inputs(QUESTION, [picture(7), picture(8)])).logits[0]
    prompt = prompted(pair.adapter, [picture(7), picture(8)], 1)
    cache = KVCache(pair.adapter.decoder, 1, 256, torch.float32, torch.device("cpu"))
    hidden = pair.adapter.hidden(prompt.rows, PrefillPlan(cache, [Segment(0, 0, len(prompt.rows))]))
    torch.testing.assert_close(pair.adapter.logits(hidden), expected, atol=1e-3, rtol=1e-4)


def test_statistics_are_those_of_generates_logits(pair: Pair) -> None:
    inputs = pair.inputs(QUESTION, [picture(1)])
    output = pair.reference("sdpa").generate(
        **inputs,
        max_new_tokens=5,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    decoded = answer(pair.adapter, [picture(1)], 5)
    for logits, token in zip(output.logits, decoded.statistics, strict=True):
        p = logits[0].double().softmax(-1)
        assert token.min_entropy == pytest.approx(-float(p.max().log()), abs=1e-4)
        assert token.shannon_entropy == pytest.approx(-float((p * p.log()).sum()), abs=1e-4)
        assert token.margin == pytest.approx(1 - float(p.sort().values[-1] - p.sort().values[-2]), abs=1e-4)


def test_several_pictures_are_encoded_as_each_alone(pair: Pair) -> None:
    pictures = [shown(pair.adapter, picture(1)), shown(pair.adapter, picture(2))]
    together = pair.adapter.encode(pictures)
    assert [one.tokens.shape for one in together] == [(GRID * GRID, 64)] * 2
    for features, one in zip(together, pictures, strict=True):
        (alone,) = pair.adapter.encode([one])
        torch.testing.assert_close(features.tokens, alone.tokens, atol=1e-5, rtol=1e-4)


def test_features_fill_their_spans_and_nothing_else(pair: Pair) -> None:
    prompt, features = (
        pair.adapter.prompt(pair.adapter.tokens(QUESTION), [(1, 2), (3, 1)]),
        torch.full((3, 64), 3.0),
    )
    plain = pair.adapter.embed(torch.tensor(prompt.ids))
    (_, stop), (first, last) = prompt.spans
    assert (prompt.shared, last - first, prompt.visual_tokens) == (stop, 3, 5)
    rows = pair.adapter.rows(prompt, stop, [Features(features)])
    assert torch.equal(rows.embeddings[first - stop : last - stop], features)
    kept = [at for at in range(stop, len(prompt.ids)) if not first <= at < last]
    assert torch.equal(rows.embeddings[[at - stop for at in kept]], plain[kept])
    assert torch.equal(rows.positions, torch.arange(stop, len(prompt.ids))[None])
    assert (prompt.next_position, prompt.delta) == (len(prompt.ids), 0)


def test_a_picture_is_known_by_its_pixels(pair: Pair) -> None:
    wide = picture(1).resize((200, 100))
    one, again = shown(pair.adapter, wide), shown(pair.adapter, wide.copy())
    assert (one.shown, one.grid, one.tokens) == (Size(200, 100), (GRID, GRID), GRID * GRID)
    assert one.pixels.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert one.pixels.dtype == torch.uint8
    assert one.digest == again.digest
    assert one.digest != shown(pair.adapter, picture(2)).digest


def test_decoding_stops_at_each_end_token_and_says_so(tmp_path: Path) -> None:
    free = load_model(str(write_checkpoint(tmp_path / "free", Variant(seed=7))))
    tokens = answer(free, [picture(1)]).token_ids
    for name, eos in (("one", tokens[2]), ("list", (2, tokens[2]))):
        adapter = load_model(str(write_checkpoint(tmp_path / name, Variant(seed=7, eos=eos))))
        expected = tokens[: tokens.index(tokens[2]) + 1]
        decoded = answer(adapter, [picture(1)])
        assert decoded.token_ids == expected
        assert [token.is_eos for token in decoded.statistics] == [False] * (len(expected) - 1) + [True]


def test_another_encoder_can_take_the_vision_towers_place(tmp_path: Path) -> None:
    adapter = load_model(str(write_checkpoint(tmp_path, Variant())))
    torch_encoder = adapter.vision_module()
    seen: list[tuple[int, ...]] = []

    def encoder(pixel_values: Tensor) -> Tensor:
        seen.append(tuple(pixel_values.shape))
        return torch_encoder(pixel_values)

    other = adapter.with_encoder(encoder)
    assert answer(other, [picture(1)]) == answer(adapter, [picture(1)])
    assert seen == [(1, 3, IMAGE_SIZE, IMAGE_SIZE)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_answers(tmp_path: Path, dtype: Any) -> None:
    adapter = load_model(str(write_checkpoint(tmp_path, Variant())), dtype=dtype)
    assert str(adapter.dtype) == f"torch.{dtype}"
    decoded = answer(adapter, [picture(1), picture(2)], 3)
    assert len(decoded.token_ids) == 3
    assert all(math.isfinite(token.min_entropy) for token in decoded.statistics)
