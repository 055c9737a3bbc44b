"""The checkpoint that ships: complete in the Hugging Face layout, and run alike by transformers alone."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.edge.imaging import decode_jpeg, open_picture
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.engine import Engine
from secondlook.engine.models.checkpoint import load_model

FOLDER = Path(str(files("secondlook.engine") / "checkpoint"))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load_model("demo", dtype="float32", device="cpu"))


def test_it_is_small_and_has_a_card() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size <= 16 * 2**20
    assert "secondlook eval signs" in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("index", [0, 1, 2])
def test_both_looks_equal_generate_with_the_shipped_processor(engine: Engine, index: int) -> None:
    test = SignsPicture("test", 77, index)
    picture, question = open_picture(test.read()), test.questions[0].text
    sent = decode_jpeg(picture.global_image(engine.card.global_view).jpeg)
    first = engine.first_look(sent, question, picture.size, AnswerOptions(second_look="always"))
    assert first.pending is not None
    # Only a crop of the square's own size reaches both without being resized, by two libraries' rules.
    local = decode_jpeg(picture.local_image(first.pending.region, engine.card.local_view).jpeg)
    final = engine.second_look(first.pending, local)
    assert _generated((sent,), question) == list(first.look.token_ids)
    if local.size == sent.size:
        assert _generated((sent, local), question) == list(final.second.token_ids)


def _generated(images: tuple[Any, ...], question: str) -> list[int]:
    processor: Any = AutoProcessor.from_pretrained(FOLDER, local_files_only=True)
    model: Any = LlavaForConditionalGeneration.from_pretrained(
        FOLDER, dtype=torch.float32, local_files_only=True
    )
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=text, images=list(images), return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    found: list[int] = tokens[0, inputs["input_ids"].shape[1] :].tolist()
    return found
