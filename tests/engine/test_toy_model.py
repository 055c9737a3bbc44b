"""A model of another kind, through server and edge: its tokens are those of its own plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from engine.serving_harness import listening
from engine.toy_model import CELL, ToyModel
from secondlook.edge.cli import app
from secondlook.edge.client import EdgeClient
from secondlook.edge.geometry import Region, Size, target
from secondlook.edge.imaging import decode_jpeg, open_picture
from secondlook.edge.wire import AnswerOptions, Fixed, View
from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.engine import Engine
from secondlook.engine.method.region import find_region
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.pictures import Picture
from secondlook.engine.models.prompts import GENERIC_QUESTION
from secondlook.engine.serve.app import create_app

ALWAYS = AnswerOptions(second_look="always", arbitration=False, relevance=True)
SIZES = [(400, 300), (90, 700), (1000, 220), (333, 334)]

pytestmark = pytest.mark.usefixtures("one_thread")


class Whole:
    """Plain causal attention over all rows, every time."""

    def __init__(self) -> None:
        self.last: list[Tensor] = []

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        scores = scale * query @ key.transpose(-1, -2)  # [1, H, R, R]
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        self.last.append(weights[0, :, -1].mean(0))
        return (weights @ value).transpose(1, 2)


class Plain:
    """The model without cache, prefix or batch."""

    def __init__(self, model: ToyModel) -> None:
        self.model = model

    def rows(self, question: str, pictures: list[Picture]) -> Any:
        tokens = self.model.tokens(question)
        prompt = self.model.prompt(tokens, [picture.grid for picture in pictures])
        seen = [self.model.condition(one, tokens)[0] for one in self.model.encode(pictures)]
        return prompt, self.model.rows(prompt, 0, seen)

    def answer(self, question: str, pictures: list[Picture]) -> str:
        prompt, rows = self.rows(question, pictures)
        tokens: list[int] = []
        while len(tokens) < 9 and 0 not in tokens:
            more = self.model.embed(torch.tensor(tokens, dtype=torch.int64))
            ahead = (prompt.next_position + torch.arange(len(tokens))).expand(3, -1)
            rows_now = type(rows)(
                torch.cat((rows.embeddings, more)), torch.cat((rows.positions, ahead), dim=1)
            )
            tokens.append(int(self.model.logits(self.model.hidden(rows_now, Whole())[-1:]).argmax()))
        return self.model.text(tokens)

    def map(self, question: str, picture: Picture) -> Tensor:
        prompt, rows = self.rows(question, [picture])
        plan = Whole()
        self.model.hidden(rows, plan)
        first, stop = prompt.spans[0]
        return plan.last[self.model.localisation.layer][first + 1 : stop].reshape(prompt.grids[0])


def drawn(size: tuple[int, int], seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def test_it_is_a_model() -> None:
    model: VisionLanguageModel = ToyModel()
    assert model.picture(drawn((40, 400), 0), model.global_view, Size(40, 400)).grid == (15, 1)


@pytest.mark.parametrize("slots", [1, 8])
@pytest.mark.parametrize("size", SIZES)
def test_both_looks_through_server_and_edge_equal_the_plain_loop(size: tuple[int, int], slots: int) -> None:
    model, question = ToyModel(), "What is there?"
    plain, original = Plain(model), open_picture(drawn(size, 3))
    engine = Engine(model, cache=CacheSettings(most_slots=slots))
    with listening(create_app(engine)) as url, EdgeClient(url) as client:
        client.ask(original, "Something else?", ALWAYS)  # its prefix is of no use to another question
        answer = client.ask(original, question, ALWAYS)
        assert client.ask(original, question, ALWAYS).text == answer.text
    assert engine.prefixes.hits >= 1

    sent = decode_jpeg(original.global_image(model.global_view).jpeg)
    picture = model.picture(sent, model.global_view, original.size)
    assert answer.first.text == plain.answer(question, [picture])
    maps = plain.map(question, picture), plain.map(GENERIC_QUESTION, picture)
    seen = target(model.global_view, original.size)
    assert answer.region == find_region(*maps, original.size, model.localisation.region, seen)
    assert answer.relevance is not None
    assert (answer.relevance.height, answer.relevance.width) == picture.grid

    assert isinstance(answer.region, Region)
    assert answer.local_image is not None
    local = model.picture(decode_jpeg(answer.local_image.jpeg), model.local_view, answer.region.size)
    assert answer.second is not None
    assert answer.second.text == plain.answer(question, [picture, local])
    rows, columns = picture.grid
    assert answer.visual_tokens == (
        1 + rows * columns,
        2 + rows * columns + local.grid[0] * local.grid[1],
    )


def test_a_look_encodes_its_picture_once_though_the_generic_question_conditions_it_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, encoded = ToyModel(), list[int]()
    encode = model.encode

    def counted(pictures: Any) -> Any:
        encoded.append(len(pictures))
        return encode(pictures)

    monkeypatch.setattr(model, "encode", counted)
    engine, image = Engine(model), drawn((400, 300), 3)
    sent = open_picture(image).shrunk(model.global_view)
    look = engine.first_look(sent, "What is there?", Size(400, 300), ALWAYS)
    assert look.region is not None
    assert encoded == [1]


class Strips(ToyModel):
    """Sees every whole picture in one size, but of regions takes none that is too slender."""

    global_view = View(size=Fixed(width=5 * CELL, height=3 * CELL))


@pytest.mark.parametrize(("width", "decision"), [(900, "took_second"), (9000, "no_detail_to_gain")])
def test_a_strip_is_looked_at_where_its_region_has_a_size(width: int, decision: str) -> None:
    engine = Engine(Strips())
    with listening(create_app(engine)) as url, EdgeClient(url) as client:
        answer = client.ask(drawn((width, 3), 3), "What is there?", ALWAYS)
    assert (answer.decision, answer.second_look_failed) == (decision, None)


def test_a_picture_too_slender_for_the_model_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "strip.png"
    drawn((2011, 10), 3).save(path)
    with listening(create_app(Engine(ToyModel()))) as url:
        command = CliRunner().invoke(app, ["ask", str(path), "What is there?", "--server", url])
    assert (command.exit_code, command.stdout) == (2, "")
    [line] = command.stderr.splitlines()
    assert line.startswith(
        "error: a picture of 2011x10 pixels is too slender for this model: one side may be"
    )


def test_many_at_once_are_those_alone() -> None:
    model = ToyModel(seed=4)
    plain = Plain(model)
    engine = Engine(model, cache=CacheSettings(most_slots=3))
    asked = []
    for number, size in enumerate(SIZES * 2):
        image, question = drawn(size, number), f"What is in {number}?"
        sent = open_picture(image).shrunk(model.global_view)
        prepared = engine.prepare(sent, question, Size(*size), AnswerOptions(second_look="never"))
        asked.append((prepared, question, engine.start_first_look(prepared)))
    while engine.round():
        pass
    for prepared, question, request in asked:
        assert request.future.result().text == plain.answer(question, [prepared.picture])
