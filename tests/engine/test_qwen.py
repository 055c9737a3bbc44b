"""Qwen2.5-VL and Qwen3-VL against transformers: golden files, and random sizes, batches and schedules."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.looks import MOST, SIZES, Asked, answered, any_pictures, asked, drawn
from engine.qwen import (
    CELL,
    FAMILIES,
    TEMPLATE_3,
    Reference,
    cases,
    ids_of,
    publish,
    through_end,
    words,
    write_folder,
)
from engine.test_graphs import eager
from properties import examples
from secondlook.edge.geometry import Size
from secondlook.edge.wire import Budget
from secondlook.engine.decode.decoder import Decoder, Prompted
from secondlook.engine.decode.graphs import StepGraphs
from secondlook.engine.errors import InvalidModelError, UnsupportedModelError
from secondlook.engine.models import qwen2_5_vl, qwen3_vl
from secondlook.engine.models.base import Picture
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.prompts import GENERIC_QUESTION
from secondlook.engine.models.qwen import Qwen
from waiting import NoWaiting

QUESTIONS = st.lists(st.integers(32, 89), min_size=1, max_size=6).map(words)

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Pair:
    """A golden checkpoint, loaded by us, and by transformers with attention that is told and with another."""

    family: str
    folder: Path
    model: Qwen
    plain: Reference
    eager: Reference
    golden: dict[str, Any]

    @property
    def layer(self) -> int:
        return int(self.golden["probe_layer"])

    def picture(self, image: Image.Image) -> Picture:
        return self.model.picture(image, self.model.global_view, Size(*image.size))


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    golden = cases(request.param)
    folder = write_folder(tmp_path_factory.mktemp("qwen"), request.param, int(golden["probe_layer"]))
    model = load_model(str(folder))
    assert isinstance(model, Qwen)
    return Pair(request.param, folder, model, Reference(folder), Reference(folder, "eager"), golden)


def case_names(golden: dict[str, Any]) -> list[str]:
    return sorted({name.split("_")[0] for name in golden if name[0].isdigit()})


class Looks:
    """Both looks on one slot, the second behind the kept prefix."""

    def __init__(self, model: Qwen) -> None:
        self.model = model
        self.decoder = Decoder(model, 1, 600, MOST, model.probe())

    def prompted(self, question: str, grids: list[Any], start: int, pictures: list[Picture]) -> Prompted:
        prompt = self.model.prompt(self.model.tokens(question), grids)
        rows = self.model.rows(prompt, start, self.model.encode(pictures) if pictures else [])
        return Prompted(0, start, rows, prompt.spans[0], prompt.delta, MOST)

    def answer(self, prompted: Prompted) -> list[int]:
        self.decoder.prefill([prompted])
        while not self.decoder.record.finished[0]:
            self.decoder.step([0])
        return list(self.decoder.record.read(0).token_ids)


def test_golden_cases_are_exact(pair: Pair) -> None:
    golden, model = pair.golden, pair.model
    assert case_names(golden)
    for case in case_names(golden):
        whole, local = (
            pair.picture(Image.fromarray(golden[f"{case}_{name}"])) for name in ("global", "local")
        )
        grids = [whole.grid, local.grid]
        assert grids == [tuple(grid) for grid in golden[f"{case}_grids"].tolist()]
        ids = golden[f"{case}_ids_question"].tolist()
        question = words(ids[ids.index(91) + 1 : -2])
        for name, text, shown in (
            ("question", question, grids[:1]),
            ("generic", GENERIC_QUESTION, grids[:1]),
            ("second", question, grids),
        ):
            assert ids_of(model, text, shown) == golden[f"{case}_ids_{name}"].tolist()
        second = model.prompt(model.tokens(question), grids)
        np.testing.assert_array_equal(second.positions.numpy(), golden[f"{case}_positions_second"])
        assert second.delta == int(golden[f"{case}_rope_delta_second"])

        looks = Looks(model)
        first = looks.prompted(question, grids[:1], 0, [whole])
        (row,) = looks.decoder.prefill([first], probe=True)
        (generic,) = looks.decoder.attention_rows(
            [looks.prompted(GENERIC_QUESTION, grids[:1], second.shared, [])]
        )
        for name, found in (("question", row), ("generic", generic)):
            np.testing.assert_allclose(found.numpy(), golden[f"{case}_row_{name}"], atol=1e-5, rtol=0)
        assert looks.answer(first) == through_end(golden[f"{case}_tokens_first"])
        again = looks.prompted(question, grids, second.shared, [local])
        assert looks.answer(again) == through_end(golden[f"{case}_tokens_second"])


def test_pictures_equal_those_of_the_processor(pair: Pair) -> None:
    for image in any_pictures(1500):
        expected = pair.plain.processor(images=[image], return_tensors="pt")
        picture = pair.picture(image)
        assert [1, *(2 * count for count in picture.grid)] == expected["image_grid_thw"][0].tolist()
        patches = pair.model.patches(picture)
        torch.testing.assert_close(patches, expected["pixel_values"], atol=1e-6, rtol=0)


def test_a_picture_alone_is_moved_to_the_device(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and std are there: they were put there once, for the model."""
    moved: list[int] = []

    def counted(values: torch.Tensor, device: torch.device) -> torch.Tensor:
        moved.append(values.numel())
        return values.to(device)

    monkeypatch.setattr("secondlook.engine.models.pictures.to_device", counted)
    pictures = [pair.picture(drawn((300, 200), number)) for number in range(2)]
    pair.model.encode(pictures)
    assert moved == [one.pixels.numel() for one in pictures]


@given(grids=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=2))
def test_positions_equal_transformers(pair: Pair, grids: list[tuple[int, int]]) -> None:
    prompt = pair.model.prompt(pair.model.tokens("丏丐"), grids)
    ids = torch.tensor([prompt.ids])
    positions, delta = pair.plain.model.model.get_rope_index(
        ids,
        (ids == 92).int(),
        image_grid_thw=torch.tensor([[1, 2 * rows, 2 * columns] for rows, columns in grids]),
    )
    assert torch.equal(prompt.positions, positions[:, 0])
    assert (prompt.delta, prompt.next_position) == (int(delta), int(positions.max()) + 1)
    assert prompt.shared_position == int(positions[:, 0, prompt.shared].max())


@settings(max_examples=examples(15), deadline=None)
@given(sizes=st.lists(SIZES, min_size=1, max_size=4))
def test_features_of_several_pictures_equal_transformers(pair: Pair, sizes: list[tuple[int, int]]) -> None:
    pictures = [pair.picture(drawn(size, number)) for number, size in enumerate(sizes)]
    for picture, features in zip(pictures, pair.model.encode(pictures), strict=True):
        inputs = pair.plain.inputs([92], [picture])
        with torch.inference_mode():
            expected = pair.plain.model.model.visual(
                inputs["pixel_values"], grid_thw=inputs["image_grid_thw"], return_dict=True
            )
        deep = getattr(expected, "deepstack_features", ())
        assert len(features.deep) == len(deep) == (2 if pair.family == "qwen3_vl" else 0)
        for ours, theirs in zip(
            (features.tokens, *features.deep), (expected.pooler_output, *deep), strict=True
        ):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


@settings(max_examples=examples(15), deadline=None)
@given(size=SIZES, question=QUESTIONS)
def test_rows_equal_eager_attention(pair: Pair, size: tuple[int, int], question: str) -> None:
    picture = pair.picture(drawn(size, 3))
    looks = Looks(pair.model)
    (row,) = looks.decoder.prefill([looks.prompted(question, [picture.grid], 0, [picture])], probe=True)
    expected = pair.eager.row(ids_of(pair.model, question, [picture.grid]), picture, pair.layer)
    torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)


def test_no_pass_waits_for_the_device(pair: Pair) -> None:
    model, pictures = pair.model, [pair.picture(drawn(size, 1)) for size in ((300, 120), (90, 500))]
    grids = [picture.grid for picture in pictures]
    vision = model.vision_module()
    patches = torch.cat([model.patches(picture) for picture in pictures])
    places = vision.places(grids, model.device)
    looks = Looks(model)
    prompt = looks.prompted(words([40]), grids, 0, pictures)
    plan = looks.decoder._plan([prompt], probe=False)
    slot = torch.tensor([0])
    with torch.inference_mode(), NoWaiting():
        vision(patches, places)
        model.hidden(prompt.rows, plan)
    looks.decoder.prefill([prompt])
    with NoWaiting():
        looks.decoder._step(slot, slot)


def test_steps_on_graphs_beside_padding_are_those_without(pair: Pair) -> None:
    looks, picture = Looks(pair.model), pair.picture(drawn((300, 120), 1))
    prompted = looks.prompted(words([40]), [picture.grid], 0, [picture])
    expected = looks.answer(prompted)
    decoder = Decoder(pair.model, 3, 200, MOST)
    graphs = StepGraphs(decoder._step, 3, pair.model.device, eager)
    decoder.prefill([replace(prompted, slot=slot) for slot in range(3)])  # a padding row beside three
    while not decoder.record.finished[:3].all():
        graphs.run([0, 1, 2])
    assert [list(decoder.record.read(slot).token_ids) for slot in range(3)] == [expected] * 3


@pytest.mark.parametrize("slots", [1, 8])
@settings(max_examples=examples(6), deadline=None)
@given(asked=asked(QUESTIONS))
def test_looks_that_join_and_give_way_equal_generate(pair: Pair, slots: int, asked: Asked) -> None:
    for one in answered(pair.model, slots, asked):
        ids = ids_of(pair.model, one.question, [picture.grid for picture in one.pictures])
        pair.plain.check(one.look.token_ids, ids, one.pictures)


def test_the_views_are_the_folders_and_at_most_256_cells(pair: Pair, tmp_path: Path) -> None:
    cell = CELL[pair.family]
    rule = Budget(multiple=cell, least_pixels=4 * cell**2, most_pixels=64 * cell**2)
    view = pair.model.global_view
    assert (view, view.size, view.fit, view.filter) == (pair.model.local_view, rule, "squash", "bicubic")
    folder = write_folder(tmp_path, pair.family)
    file = folder / "preprocessor_config.json"
    values = json.loads(file.read_text())
    values.pop("size")
    file.write_text(json.dumps({**values, "min_pixels": 3136, "max_pixels": 12845056}))
    model = load_model(str(folder))
    assert model.global_view.size == Budget(multiple=cell, least_pixels=3136, most_pixels=256 * cell**2)
    assert model.most_visual_tokens == (256, 256)


def test_the_public_layout_loads_and_says_what_it_ignores(
    pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    template = {"template": TEMPLATE_3} if pair.family == "qwen3_vl" else {}
    folder = write_folder(tmp_path, pair.family, **template)
    publish(folder, pair.family)
    with caplog.at_level(logging.WARNING):
        model = load_model(str(folder))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("decoding is plainly greedy, without repetition_penalty=1.05")
    assert model.eos_ids == {2, 3}
    picture, question = pair.picture(drawn((300, 120), 1)), words([40, 50])
    ids = ids_of(model, question, [picture.grid])
    system = [5] if pair.family == "qwen2_5_vl" else []
    text = [token for token in ids if token != 92]
    assert text == [*system, 6, 7, 90, 91, 40, 50, 30, 31]
    looks = Looks(model)  # type: ignore[arg-type]
    answer = looks.answer(looks.prompted(question, [picture.grid], 0, [picture]))
    Reference(folder).check(answer, ids, [picture])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_answers(pair: Pair, dtype: Any) -> None:
    model = load_model(str(pair.folder), dtype=dtype)
    assert isinstance(model, Qwen)
    pictures, looks = [pair.picture(drawn((300, 120), seed)) for seed in (1, 2)], Looks(model)
    answer = looks.answer(looks.prompted(words([40]), [one.grid for one in pictures], 0, pictures))
    assert 1 <= len(answer) <= MOST
    for ours, exact in zip(model.encode(pictures), pair.model.encode(pictures), strict=True):
        for half, whole in zip((ours.tokens, *ours.deep), (exact.tokens, *exact.deep), strict=True):
            assert half.dtype == model.dtype
            assert float((half.float() - whole).norm() / whole.norm()) < 0.05


def test_default_localisation_is_the_published() -> None:
    def config(layers: int, heads: int, width: int) -> Any:
        class Text:
            num_hidden_layers, num_attention_heads, hidden_size = layers, heads, width

        class Config:
            text_config = Text

        return Config

    assert dict(qwen2_5_vl.default_localisation(config(36, 16, 2048)).layers) == {22: None}
    assert dict(qwen2_5_vl.default_localisation(config(28, 28, 3584)).layers) == {17: None}
    assert qwen2_5_vl.default_localisation(config(36, 16, 2048)).crop_size == 224
    assert dict(qwen3_vl.default_localisation(config(36, 32, 2560)).layers) == {
        19: {24: 1.0, 27: 1.0},
        24: {21: 1.0, 23: 1.0},
    }
    assert dict(qwen3_vl.default_localisation(config(28, 16, 2048)).layers) == {17: None}


@pytest.mark.parametrize(
    ("file", "changes", "kind", "told"),
    [
        ("preprocessor_config.json", {"patch_size": 15}, InvalidModelError, "patch_size is 15"),
        ("preprocessor_config.json", {"resample": 0}, UnsupportedModelError, "resample 0"),
        ("preprocessor_config.json", {"resample": True}, InvalidModelError, "resample must be a filter"),
        ("preprocessor_config.json", {"rescale_factor": 0}, InvalidModelError, "rescale_factor must be a"),
        ("preprocessor_config.json", {"image_mean": [1]}, InvalidModelError, "preprocessor's settings"),
        ("preprocessor_config.json", {"size": {"longest_edge": 9}}, InvalidModelError, "holds no picture"),
        ("preprocessor_config.json", {"size": 9}, InvalidModelError, "preprocessor's settings"),
        (
            "preprocessor_config.json",
            {"image_processor_type": "CLIPImageProcessor"},
            UnsupportedModelError,
            "CLIPImageProcessor",
        ),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, file: str, changes: dict[str, Any], kind: type[Exception], told: str
) -> None:
    folder = write_folder(tmp_path, "qwen2_5_vl")
    values = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**values, **changes}))
    with pytest.raises(kind) as caught:
        load_model(str(folder))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_sequence_is_longer_than_a_sliding_window(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "qwen2_5_vl")
    values = json.loads((folder / "config.json").read_text())
    text = {**values["text_config"], "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}
    text.pop("layer_types")
    (folder / "config.json").write_text(json.dumps({**values, "text_config": text}))
    with pytest.raises(InvalidModelError, match="sliding_window is 64, too small"):
        load_model(str(folder))
