"""LLaVA-NeXT against transformers: two looks at base views, and one look at base view and tiles."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoints import GRID, edit_json, write_checkpoint
from engine.llava_next import SHEETS, Reference, write_next
from engine.looks import ALWAYS, MOST, Asked, answered, any_pictures, asked, drawn
from properties import examples
from secondlook.edge.geometry import Size
from secondlook.edge.imaging import open_picture
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.engine import Engine
from secondlook.engine.errors import InvalidModelError, ModelError, UnsupportedModelError
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.llava_next import HighResolution, LlavaNext

NEVER = AnswerOptions(second_look="never", max_new_tokens=MOST)
QUESTIONS = st.sampled_from(["What is the number on the sign?", "Is it a sign?", "Where"])
QUESTION = "What is on the sign?"

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Pair:
    folder: Path
    model: LlavaNext
    tiled: HighResolution
    theirs: Reference
    eager: Reference


@pytest.fixture(scope="module", params=["llama", "mistral"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = write_next(tmp_path_factory.mktemp(request.param), request.param)
    model = load_model(str(folder))
    assert isinstance(model, LlavaNext)
    theirs, eager = (Reference(folder, request.param, kind) for kind in ("sdpa", "eager"))
    return Pair(folder, model, model.high_resolution(), theirs, eager)


def test_pictures_equal_those_of_the_processor(pair: Pair) -> None:
    numbers = pair.model.normalisation
    for image in any_pictures(900, ratio=30):
        expected = pair.theirs.images([image], return_tensors="pt")["pixel_values"][0]
        shown = Size(*image.size)
        base = pair.model.picture(image, pair.model.global_view, shown)
        ours = numbers.on(torch.device("cpu"))([base])
        torch.testing.assert_close(ours, expected[:1], atol=1e-6, rtol=0)
        tiled = pair.tiled.picture(image, pair.tiled.global_view, shown)
        values = numbers.on(torch.device("cpu")).values(tiled.pixels)
        torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)
        assert tiled.tokens == len(expected) * GRID**2


@given(size=st.tuples(st.integers(1, 4000), st.integers(1, 4000)))
@settings(max_examples=examples(300), deadline=None)
def test_rows_of_tiles_are_those_of_the_processor(pair: Pair, size: tuple[int, int]) -> None:
    image = drawn((1, 1), 0)  # the size of what it shows is what counts
    picture = pair.tiled.picture(image, pair.tiled.global_view, Size(*size))
    found = pair.tiled.prompt(pair.tiled.tokens(QUESTION), [picture.grid]).visual_tokens
    expected = pair.theirs.processor._get_num_multimodal_tokens([size[::-1]])
    assert [found] == expected.num_image_tokens
    assert found <= pair.tiled.most_visual_tokens[0]


def test_prompts_equal_the_processors(pair: Pair) -> None:
    image = drawn((200, 120), 1)
    inputs = pair.theirs.inputs(QUESTION, [image])
    picture = pair.tiled.picture(image, pair.tiled.global_view, Size(*image.size))
    assert (
        list(pair.tiled.prompt(pair.tiled.tokens(QUESTION), [picture.grid]).ids)
        == inputs["input_ids"][0].tolist()
    )
    prompt = pair.model.prompt(pair.model.tokens(QUESTION), [(GRID, GRID)])
    assert prompt.visual_tokens == GRID**2
    text = [token for token in prompt.ids if token != pair.theirs.model.config.image_token_id]
    assert text == [
        one for one in inputs["input_ids"][0].tolist() if one != pair.theirs.model.config.image_token_id
    ]


@pytest.mark.parametrize("slots", [1, 8])
@settings(max_examples=examples(6), deadline=None)
@given(asked=asked(QUESTIONS, most=4))
def test_looks_that_join_and_give_way_equal_generate(pair: Pair, slots: int, asked: Asked) -> None:
    for one in answered(pair.model, slots, asked):
        pair.theirs.check(one.look.token_ids, pair.theirs.base(one.ids, one.sent))


@pytest.mark.parametrize("slots", [1, 8])
@settings(max_examples=examples(6), deadline=None)
@given(asked=asked(QUESTIONS, most=4))
def test_tiles_that_join_and_give_way_equal_generate(pair: Pair, slots: int, asked: Asked) -> None:
    for one in answered(pair.tiled, slots, asked, NEVER):
        inputs = pair.theirs.sent(one.question, one.original, *one.sent)
        there = inputs["input_ids"] == pair.theirs.model.config.image_token_id
        assert one.look.visual_tokens == int(there.sum())
        pair.theirs.check(one.look.token_ids, inputs)


@torch.inference_mode()
def test_maps_equal_eager_attention(pair: Pair) -> None:
    image, layer = drawn((150, 84), 3), pair.model.localisation.deepest
    asked = AnswerOptions(second_look="never", relevance=True, max_new_tokens=1)
    found = Engine(pair.model).first_look(image.resize((84, 84)), QUESTION, Size(900, 500), asked)
    ids = pair.model.prompt(pair.model.tokens(QUESTION), [(GRID, GRID)]).ids
    inputs = pair.eager.base(ids, [image.resize((84, 84))])
    row = pair.eager.model(**inputs, output_attentions=True).attentions[layer][0, :, -1].mean(0)
    there = torch.tensor(ids) == pair.eager.model.config.image_token_id
    assert found.maps is not None
    torch.testing.assert_close(found.maps.question, row[there].view(GRID, GRID), atol=1e-5, rtol=0)

    found = Engine(pair.tiled).first_look(image, QUESTION, Size(*image.size), asked)
    inputs = pair.eager.inputs(QUESTION, [image])
    row = pair.eager.model(**inputs, output_attentions=True).attentions[layer][0, :, -1].mean(0)
    row = row[inputs["input_ids"][0] == pair.eager.model.config.image_token_id]
    assert found.maps is not None
    rows, columns = found.maps.question.shape
    assert (rows, columns) == (6, 10)
    expected = row[GRID**2 :].view(rows, columns + 1)[:, :columns]
    torch.testing.assert_close(found.maps.question, expected, atol=1e-5, rtol=0)


def test_the_public_layout_says_what_it_ignores(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_model(str(write_next(tmp_path)))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("decoding is plainly greedy, without repetition_penalty=1.1")


def test_no_sequence_is_longer_than_a_sliding_window(tmp_path: Path) -> None:
    model = load_model(str(write_next(tmp_path, "mistral", window=150)))
    assert model.context == 150
    engine, image = Engine(model), drawn((300, 200), 4)
    shrunk = open_picture(image).shrunk(model.global_view)
    first = engine.first_look(shrunk, QUESTION, Size(300, 200), ALWAYS)
    theirs = Reference(tmp_path, "mistral")
    ids = model.prompt(model.tokens(QUESTION), [(GRID, GRID)]).ids
    theirs.check(first.look.token_ids, theirs.base(ids, [shrunk]))
    with pytest.raises(
        InvalidModelError, match=r"sliding_window is 60, too small for two pictures of 72 tokens"
    ):
        load_model(str(write_next(tmp_path, "mistral", window=60)))


def test_the_baseline_is_the_same_model(pair: Pair) -> None:
    assert pair.tiled.digest() == pair.model.digest()
    assert isinstance(pair.tiled.shapes(), HighResolution)
    seen = []

    def encoder(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return pair.model.vision_module()(pixels)

    other: Any = pair.model.with_encoder(encoder)
    tiled = other.high_resolution()
    picture = tiled.picture(drawn((100, 100), 1), tiled.global_view, Size(100, 100))
    assert torch.equal(tiled.encode([picture])[0].tokens, pair.tiled.encode([picture])[0].tokens)
    assert seen == [5]


def test_what_encodes_tiles_is_what_encodes_the_base_view(pair: Pair) -> None:
    (graph,), (tiled,) = (one.vision_graphs().values() for one in (pair.model, pair.tiled))
    assert tiled.interface == graph.interface
    (made,) = (graph.module(*graph.example()),)
    assert list(made.shape[1:]) == list(tiled.interface.outputs[0].shape[1:])


def test_what_has_no_tiles_has_no_baseline(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="no high-resolution baseline"):
        load_model(str(write_checkpoint(tmp_path))).high_resolution()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_answers(pair: Pair, dtype: Any) -> None:
    model = load_model(str(pair.folder), dtype=dtype)
    for one in (model, model.high_resolution()):
        found = Engine(one).first_look(drawn((84, 84), 2), QUESTION, Size(900, 900), NEVER)
        assert found.look.token_ids


def change(file: str, **changes: Any) -> Any:
    return lambda folder: edit_json(folder / file, **changes)


def change_text(**changes: Any) -> Any:
    def apply(folder: Path) -> None:
        text = json.loads((folder / "config.json").read_text())["text_config"]
        edit_json(folder / "config.json", text_config={**text, **changes})

    return apply


@pytest.mark.parametrize(
    ("spoil", "kind", "told"),
    [
        (change_text(model_type="qwen2"), UnsupportedModelError, "model_type llava_next, .* decoder qwen2"),
        (
            change("config.json", vision_config={"model_type": "siglip_vision_model"}),
            UnsupportedModelError,
            "tower siglip_vision_model",
        ),
        (change("config.json", vision_feature_select_strategy="full"), UnsupportedModelError, "'full'"),
        (change("config.json", vision_feature_layer=[-2, -3]), UnsupportedModelError, "several"),
        (change("config.json", image_grid_pinpoints=[[84, 100]]), InvalidModelError, "multiples of 84"),
        (change("config.json", image_grid_pinpoints=[]), InvalidModelError, "multiples of 84"),
        (
            change("config.json", image_grid_pinpoints=SHEETS[:2]),
            InvalidModelError,
            "not those of config.json",
        ),
        (change("preprocessor_config.json", resample=2), UnsupportedModelError, "resample 2"),
        (change("preprocessor_config.json", size={"shortest_edge": 336}), InvalidModelError, "takes 84x84"),
        (change("preprocessor_config.json", crop_size=336), InvalidModelError, "crop_size is 336,"),
        (change("preprocessor_config.json", image_processor_type="X"), UnsupportedModelError, "processor X"),
        (change("model.safetensors.index.json", weight_map={}), ModelError, "index"),
    ],
)
def test_faults_of_a_folder_are_one_line(
    tmp_path: Path, spoil: Any, kind: type[ModelError], told: str
) -> None:
    folder = write_next(tmp_path)
    spoil(folder)
    with pytest.raises(kind, match=told) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)
