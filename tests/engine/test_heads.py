"""What each head looks at, against transformers' own matrices; and which heads are found to be best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from engine import qwen
from engine.checkpoints import GRID, Variant, write_checkpoint
from engine.looks import drawn
from engine.planted import ORIGINAL, PLANTED, PlantedModel, painted
from engine.planted import QUESTION as WHERE_IS_RED
from engine.questions import LARGE, QUESTION, picture
from engine.test_toy_model import Plain
from engine.toy_model import ToyModel
from secondlook.edge.geometry import Rectangle, Size
from secondlook.edge.imaging import open_picture
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.engine import Engine
from secondlook.engine.errors import EmptyQuestionError
from secondlook.engine.heads import Attended, Heads, Ranked
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.prompts import GENERIC_QUESTION
from secondlook.engine.models.settings import Sink

pytestmark = pytest.mark.usefixtures("one_thread")

ANYWHERE = (Rectangle(0.0, 0.0, 10.0, 10.0),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("heads"), Variant(seed=11, kv_heads=2))


def attended(model: VisionLanguageModel, image: Any, original: Size, question: str) -> Attended:
    (found,) = Heads(model).attended(image, original, [(question, ANYWHERE)])
    return found


def test_every_heads_map_equals_transformers(folder: Path) -> None:
    model = load_model(str(folder))
    found = attended(model, picture(1), LARGE, QUESTION)
    eager = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    asked = Engine(model).prepare(picture(1), QUESTION, LARGE)
    pixels = model.normalisation.on(torch.device("cpu"))([asked.picture])
    for prompt, maps in ((asked.prompt, found.question), (asked.generic, found.generic)):
        with torch.inference_mode():
            ids = torch.tensor([prompt.ids])
            layers = eager(input_ids=ids, pixel_values=pixels, output_attentions=True).attentions
        expected = torch.stack([layer[0, :, -1, slice(*prompt.spans[0])] for layer in layers])
        assert maps is not None
        torch.testing.assert_close(maps, expected.unflatten(2, (GRID, GRID)), atol=1e-5, rtol=0)


def test_rows_that_are_no_cells_are_projected_as_everywhere() -> None:
    model, original = ToyModel(seed=3), Size(400, 300)
    image = open_picture(drawn((400, 300), 5)).shrunk(model.global_view)
    found, plain = attended(model, image, original, "What is there?"), Plain(model, seed=3)
    shown = model.picture(image, model.global_view, original)
    for question, maps in (("What is there?", found.question), (GENERIC_QUESTION, found.generic)):
        layers = plain.run(question, [shown], [], output_attentions=True).attentions
        expected = torch.stack([layer[0, :, -1, 1 : 1 + shown.tokens] for layer in layers])
        assert maps is not None
        torch.testing.assert_close(maps, expected.unflatten(2, shown.grid), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"layers": {1: {2: 0.5, 0: 2.0}, 3: None}},
        {"generic": False, "rule": "box", "share": 0.5},
        {"sink": Sink({0: None, 2: {1: 1.0}}, 0.02)},
    ],
)
def test_the_region_is_the_engines(folder: Path, more: dict[str, Any]) -> None:
    model = load_model(str(folder))
    model.localisation = replace(model.localisation, **({"crop_size": 50} | more))
    asked = [f"{QUESTION} {number}" for number in range(4)]
    found = list(Heads(model).attended(picture(1), LARGE, [(question, ANYWHERE) for question in asked]))
    engine = Engine(model)
    for question, each in zip(asked, found, strict=True):
        look = engine.first_look(picture(1), question, LARGE, AnswerOptions(second_look="always"))
        assert Heads(model).region(each, model.localisation.layers) == look.region


def test_so_it_is_where_positions_have_three_dimensions_and_features_are_deep(tmp_path: Path) -> None:
    model, original = load_model(str(qwen.write_folder(tmp_path, "qwen3_vl"))), Size(900, 400)
    model.localisation = replace(model.localisation, layers={0: {1: 1.0}, 1: None}, generic=True)
    image = open_picture(drawn((900, 400), 2)).shrunk(model.global_view)
    found = attended(model, image, original, qwen.words([20, 21, 22]))
    look = Engine(model).first_look(
        image, qwen.words([20, 21, 22]), original, AnswerOptions(second_look="always")
    )
    assert look.maps is not None
    parts = found.question[0, 1] + found.question[1].mean(0)
    torch.testing.assert_close(parts, look.maps.question, atol=1e-6, rtol=1e-4)
    assert Heads(model).region(found, model.localisation.layers) == look.region


def test_a_picture_is_encoded_once_for_all_its_questions(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, encoded = load_model(str(folder)), list[int]()
    encode, hidden = model.encode, list[int]()
    run = model.hidden
    monkeypatch.setattr(model, "encode", lambda pictures: encoded.append(len(pictures)) or encode(pictures))
    monkeypatch.setattr(model, "hidden", lambda rows, plan: hidden.append(len(rows)) or run(rows, plan))
    list(Heads(model).attended(picture(1), LARGE, [("What?", ANYWHERE), ("Where?", ANYWHERE)]))
    assert (encoded, len(hidden)) == ([1], 3)


def test_a_question_that_cannot_be_asked_is_refused(folder: Path) -> None:
    with pytest.raises(EmptyQuestionError):
        attended(load_model(str(folder)), picture(1), LARGE, " ")


@pytest.fixture(scope="module")
def planted() -> tuple[Heads, list[Attended]]:
    model, seen = PlantedModel(), list[Attended]()
    heads = Heads(model)
    for seed in range(30):
        original, box = painted(seed)
        image = open_picture(original).shrunk(model.global_view)
        seen += heads.attended(image, ORIGINAL, [(WHERE_IS_RED, (box,))])
    return heads, seen


def test_the_planted_head_is_found(planted: tuple[Heads, list[Attended]]) -> None:
    heads, seen = planted
    layer, head = PLANTED
    ranked = heads.ranked(seen)
    assert len(ranked) == 2 + 2 * 2
    assert ranked[0] == heads.best(seen, ranked) == Ranked({layer: {head: 1.0}}, held=30)
    assert max(one.held for one in ranked[1:]) < 10


def test_heads_that_see_one_thing_each_are_read_together() -> None:
    """Of two questions each of two heads holds one; together both, with the weights that make them alike."""
    maps = torch.full((2, 2, 4, 6), 1e-3)
    asked = [maps.clone() for _ in range(2)]
    asked[0][0, 1, 1, 4], asked[1][1, 0, 3, 0] = 0.1, 0.4
    size = ORIGINAL.width / 6
    boxes = [Rectangle(4 * size, size, 5 * size, 2 * size), Rectangle(0.0, 3 * size, size, 4 * size)]
    seen = [Attended(one, maps, ORIGINAL, (box,)) for one, box in zip(asked, boxes, strict=True)]
    heads = Heads(PlantedModel())
    ranked = heads.ranked(seen)
    assert ranked[0].held == 1
    best = heads.best(seen, ranked)
    assert best.held == 2
    weights = best.layers[0], best.layers[1]
    to_pictures = total(asked)
    assert weights == ({1: 1.0}, {0: pytest.approx(float(to_pictures[0, 1] / to_pictures[1, 0]), rel=1e-3)})


def total(maps: list[Tensor]) -> Tensor:
    return torch.stack(maps).sum(dim=(0, 3, 4))
