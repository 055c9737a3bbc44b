"""The checkpoints that ship: complete in the Hugging Face layout, and run alike by transformers alone."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LlavaForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
)

from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.edge.imaging import decode_jpeg, open_picture
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.embedded import EMBEDDED
from secondlook.engine.engine import Engine
from secondlook.engine.models.checkpoint import load_model
from training import publish
from training.architectures import ARCHITECTURES
from training.closeups import CloseUps
from training.head import PatchHead, patch_loss
from training.lessons import flat_labels


@pytest.fixture(scope="module", params=EMBEDDED)
def engine(request: pytest.FixtureRequest) -> Engine:
    return Engine(load_model(request.param, dtype="float32", device="cpu"))


@pytest.mark.parametrize("name", EMBEDDED)
def test_it_is_small_and_has_a_card(name: str) -> None:
    folder = EMBEDDED[name]
    assert (folder / "model.safetensors").stat().st_size <= 16 * 2**20
    assert "secondlook eval signs" in (folder / "README.md").read_text(encoding="utf-8")


def public_llava_names(tower: int, decoder: int) -> set[str]:
    """What the files of `llava-hf/llava-1.5-7b-hf` name their tensors, for so many layers; the head is the
    embedding here."""
    seen, told = "vision_tower.vision_model.", "language_model.model."
    names = {f"{seen}embeddings.{part}" for part in ("class_embedding", "patch_embedding.weight")}
    names |= {
        f"{seen}embeddings.position_embedding.weight",
        f"{told}embed_tokens.weight",
        f"{told}norm.weight",
    }
    both = [f"{seen}pre_layrnorm", f"{seen}post_layernorm"]  # as they are spelt
    both += [f"multi_modal_projector.linear_{place}" for place in (1, 2)]
    for layer in range(tower):
        parts = [f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")]
        parts += ["mlp.fc1", "mlp.fc2", "layer_norm1", "layer_norm2"]
        both += [f"{seen}encoder.layers.{layer}.{part}" for part in parts]
    for layer in range(decoder):
        parts = [f"self_attn.{part}_proj" for part in "qkvo"]
        parts += [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
        parts += ["input_layernorm", "post_attention_layernorm"]
        names |= {f"{told}layers.{layer}.{part}.weight" for part in parts}
    return names | {f"{part}.{kind}" for part in both for kind in ("weight", "bias")}


def test_the_tensors_have_the_names_of_public_llavas() -> None:
    with safe_open(EMBEDDED["demo"] / "model.safetensors", "pt") as file:
        assert set(file.keys()) == public_llava_names(tower=6, decoder=4)


@pytest.mark.parametrize("name", EMBEDDED)
def test_transformers_finds_every_weight_by_its_name_and_no_other(name: str) -> None:
    kind = {"demo": LlavaForConditionalGeneration, "demo-qwen": Qwen2_5_VLForConditionalGeneration}[name]
    _, told = kind.from_pretrained(EMBEDDED[name], local_files_only=True, output_loading_info=True)
    assert told["missing_keys"] == told["unexpected_keys"] == told["mismatched_keys"] == set()


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_patch_head_beside_the_scripts_reads_what_the_tower_sees(name: str) -> None:
    architecture = ARCHITECTURES[name]
    head_file = Path(publish.__file__).with_name(architecture.head_file)
    state = publish.published_state(EMBEDDED[name], head_file)
    model, head = architecture.build(architecture.tokenizer(), seed=0), PatchHead(architecture.width)
    model.load_state_dict(state["model"])
    head.load_state_dict(state["head"])
    drawn = list(islice(CloseUps(architecture.squashes, seed=99), 60))
    labels = flat_labels([labels for _, labels in drawn])
    with torch.inference_mode():
        features = architecture.features(architecture.tower(model), [pixels for pixels, _ in drawn])
        _, right = patch_loss(head, features, labels)
    assert right > 0.8


@pytest.mark.parametrize("index", [0, 1, 2])
def test_both_looks_equal_generate_with_the_shipped_processor(engine: Engine, index: int) -> None:
    test = SignsPicture("test", 77, index)
    picture, question = open_picture(test.read()), test.questions[0].text
    sent = decode_jpeg(picture.global_image(engine.card.global_view).jpeg)
    first = engine.first_look(sent, question, picture.size, AnswerOptions(second_look="always"))
    assert first.pending is not None
    # Only a crop of the global image's own size reaches both without being resized, by two libraries' rules.
    local = decode_jpeg(picture.local_image(first.pending.region, engine.card.local_view).jpeg)
    final = engine.second_look(first.pending, local)
    name = engine.card.name
    assert _generated(name, (sent,), question) == list(first.look.token_ids)
    if local.size == (168, 168):
        assert _generated(name, (sent, local), question) == list(final.second.token_ids)


@pytest.mark.parametrize("name", sorted(EMBEDDED))
def test_a_picture_stands_before_the_words_wherever_it_was_sent(name: str) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(EMBEDDED[name], local_files_only=True)
    picture, words = {"type": "image"}, {"type": "text", "text": "What is there?"}
    first, last = (
        tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        for content in ([picture, words], [words, picture])
    )
    assert last == first
    assert first.endswith("\nWhat is there? ")


def _generated(name: str, images: tuple[Image.Image, ...], question: str) -> list[int]:
    folder = EMBEDDED[name]
    model: Any = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    inputs = (_llava_inputs if name == "demo" else _qwen_inputs)(str(folder), images, messages)
    tokens = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    found: list[int] = tokens[0, inputs["input_ids"].shape[1] :].tolist()
    return found


def _llava_inputs(folder: str, images: tuple[Image.Image, ...], messages: list[Any]) -> Any:
    processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    return processor(text=text, images=list(images), return_tensors="pt")


def _qwen_inputs(folder: str, images: tuple[Image.Image, ...], messages: list[Any]) -> Any:
    """As Qwen's processor has them, which needs torchvision."""
    prepared: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    inputs = prepared(images=list(images), return_tensors="pt")
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    first, *rest = text.split("<|image_pad|>")
    for part, grid in zip(rest, inputs["image_grid_thw"], strict=True):
        first += "<|image_pad|>" * int(grid.prod()) + part
    inputs["input_ids"] = tokenizer(first, return_tensors="pt")["input_ids"]
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == image).int()
    return inputs
