"""A model of another kind, through server and edge: its tokens are those of its own plain loop."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from typer.testing import CliRunner

from engine.looks import drawn
from engine.serving_harness import listening
from engine.toy_model import CELL, WORDS, ToyModel, decoder
from secondlook.edge.cli import app
from secondlook.edge.client import EdgeClient
from secondlook.edge.geometry import Region, Size, target
from secondlook.edge.imaging import decode_jpeg, open_picture
from secondlook.edge.wire import AnswerOptions, Fixed, View
from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.engine import Engine
from secondlook.engine.method.maps import AttentionMaps
from secondlook.engine.method.region import find_region
from secondlook.engine.models.base import Features, VisionLanguageModel
from secondlook.engine.models.pictures import Picture
from secondlook.engine.models.prompts import GENERIC_QUESTION
from secondlook.engine.serve.app import create_app

TOY = ToyModel()
ALWAYS = AnswerOptions(second_look="always", arbitration=False, relevance=True)
SIZES = [(400, 300), (90, 700), (1000, 220), (333, 334)]

pytestmark = pytest.mark.usefixtures("one_thread")


class Plain:
    """The same weights in transformers alone: no cache, no prefix, no batch, and prompts made by hand."""

    def __init__(self, model: ToyModel, seed: int) -> None:
        self.model, self.module = model, decoder(seed, "eager")

    def rows(self, question: str, pictures: list[Picture], answer: list[int]) -> tuple[Tensor, Tensor]:
        """Embeddings [R, D], and positions [3, R]."""
        table = self.module.get_input_embeddings()
        embeddings, positions, at = list[Tensor](), list[tuple[int, int, int]](), 0
        for picture, features in zip(pictures, self.model.encode(pictures), strict=True):
            told = table(torch.tensor([sum(question.encode()) % WORDS]))
            embeddings += [told, features.tokens]
            rows, columns = picture.grid
            positions += [(at, at, at)]
            positions += [(at, at + row, at + column) for row in range(rows) for column in range(columns)]
            at += max(rows, columns)
        words = [ord(letter) - 30 for letter in question] + answer
        positions += [(at + number,) * 3 for number in range(len(words))]
        return torch.cat((*embeddings, table(torch.tensor(words)))), torch.tensor(positions).T

    @torch.inference_mode()
    def run(self, question: str, pictures: list[Picture], answer: list[int], **options: Any) -> Any:
        embeddings, positions = self.rows(question, pictures, answer)
        language_model = self.module.model.language_model
        return language_model(inputs_embeds=embeddings[None], position_ids=positions[:, None], **options)

    def tokens(self, question: str, pictures: list[Picture]) -> list[int]:
        tokens: list[int] = []
        while len(tokens) < 9 and 0 not in tokens:
            states = self.run(question, pictures, tokens).last_hidden_state
            tokens.append(int(self.module.lm_head(states[0, -1]).argmax()))
        return tokens

    def answer(self, question: str, pictures: list[Picture]) -> str:
        return self.model.text(self.tokens(question, pictures))

    def map(self, question: str, picture: Picture) -> Tensor:
        weights = self.run(question, [picture], [], output_attentions=True).attentions
        first, second = (layer[0, :, -1, 1 : 1 + picture.tokens] for layer in weights)
        return (0.5 * first[1] + second.mean(0)).reshape(picture.grid)


def test_it_is_a_model() -> None:
    model: VisionLanguageModel = ToyModel()
    assert model.picture(drawn((40, 400), 0), model.global_view, Size(40, 400)).grid == (15, 1)


@given(st.integers(1, 2000), st.integers(1, 200), st.sampled_from([1, -1]))
def test_no_picture_has_more_rows_than_the_most(short: int, ratio: int, direction: int) -> None:
    size = Size(*(short, ratio * short)[::direction])
    for view, most in zip((TOY.global_view, TOY.local_view), TOY.most_visual_tokens, strict=True):
        seen = target(view, size)
        assert TOY.layout((seen.height // CELL, seen.width // CELL)).shape[1] <= most


@pytest.mark.parametrize("slots", [1, 8])
@pytest.mark.parametrize("size", SIZES)
def test_both_looks_through_server_and_edge_equal_the_plain_loop(size: tuple[int, int], slots: int) -> None:
    model, question = ToyModel(seed=1), "What is there?"
    plain, original = Plain(model, seed=1), open_picture(drawn(size, 3))
    engine = Engine(model, cache=CacheSettings(most_slots=slots))
    with listening(create_app(engine)) as url, EdgeClient(url) as client:
        encoded = []
        for asked in ("Something else?", question, question):
            with patch.object(model, "encode", wraps=model.encode) as encode:
                answer = client.ask(original, asked, ALWAYS)
            encoded.append(sum(len(call.args[0]) for call in encode.call_args_list))
    assert encoded == [2, 1, 1]  # the global image once for all questions, and each local image

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


def test_one_thread_computes_and_it_neither_prepares_nor_tokenises(monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[str, set[str]] = {}

    def noted(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def noting(*arguments: Any) -> Any:
            used.setdefault(name, set()).add(threading.current_thread().name)
            return function(*arguments)

        monkeypatch.setattr(owner, name, noting)

    model = ToyModel()
    engine = Engine(model, cache=CacheSettings(most_slots=1))
    prepared, computed = ("tokens", "prompt", "picture"), ("encode", "condition", "rows", "attention_map")
    for name in (*prepared, *computed, "hidden", "logits"):
        noted(model, name)
    noted(AttentionMaps, "relative")
    with listening(create_app(engine)) as url, EdgeClient(url) as client:
        for number in range(3):
            answer = client.ask(drawn((400, 300), number), f"What is in {number}?", ALWAYS)
            assert answer.second is not None
            assert answer.relevance is not None
    for name in (*computed, "hidden", "logits", "relative"):
        assert used[name] == {"secondlook-inference"}
    for name in prepared:
        assert all(thread.startswith("secondlook-decode") for thread in used[name])


class Strips(ToyModel):
    """Sees every whole picture in one size, but of regions takes none that is too slender."""

    def __init__(self) -> None:
        super().__init__()
        self.global_view = View(size=Fixed(width=5 * CELL, height=3 * CELL))


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


def test_features_of_fewer_rows_than_the_layout_has_are_not_spread_over_them() -> None:
    model = ToyModel()
    picture = model.picture(drawn((64, 64), 0), model.global_view, Size(64, 64))
    prompt = model.prompt(model.tokens("Why?"), [picture.grid])
    (features,) = model.encode([picture])
    with pytest.raises(AssertionError, match=f"1 rows, where layout has {1 + picture.tokens}"):
        model.rows(prompt, 0, [Features(features.tokens[:1])])


def test_many_at_once_are_those_alone() -> None:
    model = ToyModel(seed=4)
    plain = Plain(model, seed=4)
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
