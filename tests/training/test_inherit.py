"""How the second embedded model begins: what of the first one is kept, and what it learns from it."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions, Budget
from secondlook.engine.engine import Engine
from secondlook.engine.models.checkpoint import load_model
from training import inherit, pretrain, publish, train
from training.closeups import CloseUps
from training.inherit import Teacher
from training.qwen import Qwen
from training.square import Square

CPU = torch.device("cpu")
QUESTION = "What number is on the red sign?"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher.embedded(CPU)


@pytest.fixture(scope="module")
def close_ups() -> torch.Tensor:
    return torch.stack([pixels for pixels, _ in islice(CloseUps((1.0,), seed=5), 24)])


@pytest.fixture(scope="module")
def heir(teacher: Teacher, close_ups: torch.Tensor) -> Any:
    model = Qwen().build(Qwen().tokenizer(), seed=3)
    inherit.inherit(teacher.model, model, close_ups)
    return model


def test_questions_have_the_same_tokens_but_for_the_pictures() -> None:
    first, second = Square().tokenizer(), Qwen().tokenizer()
    assert second.encode(QUESTION) == first.encode(QUESTION)
    assert second.convert_tokens_to_ids("<|image_pad|>") == first.convert_tokens_to_ids("<image>")
    assert min(second.convert_tokens_to_ids(list(Qwen.more_tokens))) == len(first)


@torch.inference_mode()
def test_the_decoder_reads_text_as_before(teacher: Teacher, heir: Any) -> None:
    ids = torch.tensor([Square().tokenizer().encode(f"USER: {QUESTION} ASSISTANT:")])
    first, second = (
        model.lm_head(model.model.language_model(input_ids=ids, use_cache=False).last_hidden_state)
        for model in (teacher.model, heir)
    )
    torch.testing.assert_close(second[..., : first.shape[-1]], first, atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_a_layer_computes_as_before_where_no_place_matters(teacher: Teacher, heir: Any) -> None:
    """Of one row its attention is what it writes of itself, wherever that is."""
    theirs, ours = teacher.model.model.vision_tower.encoder.layers[2], heir.model.visual.blocks[2]
    rows = torch.randn(50, 1, 192, generator=torch.Generator().manual_seed(1))
    rows = rows - rows.mean(-1, keepdim=True)
    see = theirs.self_attn
    expected = see.out_proj(see.v_proj(theirs.layer_norm1(rows)))
    written = ours.attn.proj(ours.attn.qkv(ours.norm1(rows))[..., 2 * 192 :])
    torch.testing.assert_close(written, expected - expected.mean(-1, keepdim=True), atol=1e-3, rtol=1e-3)
    expected = theirs.mlp(theirs.layer_norm2(rows))
    expected = expected - expected.mean(-1, keepdim=True)
    written = ours.mlp(ours.norm2(rows))
    assert (written - expected).abs().mean() < 0.05 * expected.abs().mean()  # the gate is not quite gelu


def test_the_teacher_is_not_apart_from_itself(teacher: Teacher, close_ups: torch.Tensor) -> None:
    with torch.no_grad():
        features = teacher.model.model.multi_modal_projector(
            Square().features(teacher.model.model.vision_tower, close_ups, (3, 4))
        )
    assert float(teacher.apart(features, close_ups, (3, 4))) == pytest.approx(0, abs=1e-6)
    assert float(teacher.apart(features.mean(0).expand_as(features), close_ups, (3, 4))) == pytest.approx(1)


def test_pictures_that_the_teacher_would_squash_do_not_count(teacher: Teacher) -> None:
    wide = torch.zeros(3, 140, 196, dtype=torch.uint8)
    assert float(teacher.apart(torch.ones(140, 256), [wide], (0, 0))) == 0


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From the first model to a folder, a step of each stage."""
    out, folder = tmp_path_factory.mktemp("training"), tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "CLOSE_UPS", 2)
        patch.setattr(inherit, "_SAMPLES", 8)
        patch.setattr(sys, "argv", ["inherit", "--out", str(out)])
        inherit.main()
        pretrain.pretrain(Qwen(), out, 1, 4, 1, 1e-4, CPU, lessons=1, teacher=Teacher.embedded(CPU))
        for stage in train.STAGES.values():
            train.train(Qwen(), out, stage, 1, batch=2, seed=1, device=CPU)
    publish.publish(Qwen(), out / "model.pt", folder, folder / "head.safetensors", threshold=0.25)
    return folder


def test_it_is_published_and_answers_twice(published: Path) -> None:
    assert (published / "model.safetensors").stat().st_size <= 16_000_000
    engine = Engine(load_model(str(published)))
    view = engine.card.global_view
    assert view.size == Budget(multiple=14, least_pixels=56 * 56, most_pixels=156 * 14**2)
    assert view == engine.card.local_view == Qwen.view
    noise = np.random.default_rng(0).integers(0, 256, (126, 224, 3), dtype=np.uint8)
    options = AnswerOptions(second_look="always", max_new_tokens=3)
    first = engine.first_look(Image.fromarray(noise), QUESTION, Size(1920, 1080), options)
    assert first.pending is not None
    final = engine.second_look(first.pending, Image.fromarray(noise[:126, :126]))
    assert 1 <= len(first.look.tokens) <= 3
    assert 1 <= len(final.second.tokens) <= 3


def test_training_goes_on_from_the_folder(published: Path) -> None:
    resumed = publish.published_state(published, published / "head.safetensors")
    model = Qwen().build(Qwen().tokenizer(), seed=0)
    model.load_state_dict(resumed["model"])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert 4e6 < parameters < 8e6
