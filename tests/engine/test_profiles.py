"""Where a model looks, by a file or a profile: rows of the answer, sinks and boxes, against transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from engine.checkpoints import GRID, Variant, write_checkpoint
from engine.questions import LARGE, QUESTION, first, picture
from secondlook.edge.errors import SecondLookError, SettingsError
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.engine import Engine
from secondlook.engine.method.region import find_region, without_sinks
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.profiles import PUBLISHED, chosen_profile
from secondlook.engine.models.settings import Localisation, Sink

pytestmark = pytest.mark.usefixtures("one_thread")

WHERE = {"layers": {"3": {"1": 0.75, "2": 0.25}, "1": {"0": 2}}, "crop_size": 50}
SINK = {"layers": {"0": None, "3": {"0": 1}}, "threshold": 0.01}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("looks"), Variant(seed=11, kv_heads=2))


def engine_of(folder: Path, tmp_path: Path, **more: Any) -> Engine:
    profile = tmp_path / "text.json"
    profile.write_text(json.dumps({**WHERE, **more}))
    return Engine(load_model(str(folder), profile=str(profile)))


def expected_maps(folder: Path, engine: Engine, answer: tuple[int, ...], rows: int) -> tuple[Any, Any]:
    """Of the layers of WHERE and of SINK, the mean over the last `rows` rows of prompt and answer."""
    asked = engine.prepare(picture(1), QUESTION, LARGE)
    eager = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    pixels = engine.model.normalisation.on(torch.device("cpu"))([asked.picture])
    ids = torch.tensor([[*asked.prompt.ids, *answer]])
    with torch.inference_mode():
        found = eager(input_ids=ids, pixel_values=pixels, output_attentions=True).attentions
    heads = [layer[0, :, -rows:, slice(*asked.prompt.spans[0])].mean(1) for layer in found]
    asked_map = 0.75 * heads[3][1] + 0.25 * heads[3][2] + 2 * heads[1][0]
    return asked_map.reshape(GRID, GRID), (heads[0].mean(0) + heads[3][0]).reshape(GRID, GRID)


@pytest.mark.parametrize("rows", [1, 3, 99])
def test_rows_of_the_answer_are_read_as_transformers_has_them(
    folder: Path, tmp_path: Path, rows: int
) -> None:
    engine = engine_of(folder, tmp_path, generated_rows=rows, generic=False, sink=SINK, rule="box")
    look = first(engine, second_look="always", decide_after=4)
    early = [token for token in look.look.token_ids[:4] if token not in engine.model.eos_ids]
    answer = tuple(early[:rows])
    asked, sinks = expected_maps(folder, engine, answer, len(answer))
    expected = without_sinks(asked, sinks, SINK["threshold"])
    assert look.maps is not None
    torch.testing.assert_close(look.maps.question, expected, atol=1e-6, rtol=1e-4)
    assert look.region == find_region(
        look.maps.question, look.maps.generic, LARGE, engine.model.localisation.region
    )


@pytest.mark.parametrize("quantile", [0.3, 0.7])
def test_sinks_of_the_prompts_last_row_are_left_out(folder: Path, tmp_path: Path, quantile: float) -> None:
    _, sinks = expected_maps(folder, engine_of(folder, tmp_path), (), 1)
    threshold = float(sinks.quantile(quantile))
    engine = engine_of(folder, tmp_path, sink={**SINK, "threshold": threshold})
    look, plain = (first(each, second_look="always").maps for each in (engine, engine_of(folder, tmp_path)))
    assert look is not None
    assert plain is not None
    left_out = look.question == 0
    assert torch.equal(left_out, sinks >= threshold)
    torch.testing.assert_close(look.question[~left_out], plain.question[~left_out])
    torch.testing.assert_close(look.generic, plain.generic)


def test_the_answer_and_the_rest_of_it_are_the_same_whatever_is_read(folder: Path, tmp_path: Path) -> None:
    plain = first(engine_of(folder, tmp_path), second_look="always", decide_after=2)
    read = first(
        engine_of(folder, tmp_path, generated_rows=2, sink=SINK), second_look="always", decide_after=2
    )
    assert read.look.token_ids == plain.look.token_ids
    # Of a layer that nothing reads, a prompt's last row may be computed by itself: sums in another order.
    for one, other in zip(read.look.tokens, plain.look.tokens, strict=True):
        measures = ((each.min_entropy, each.shannon_entropy, each.margin) for each in (one, other))
        assert next(measures) == pytest.approx(next(measures), rel=1e-4, abs=1e-5)


def test_many_at_once_are_read_as_each_alone(folder: Path, tmp_path: Path) -> None:
    engine = engine_of(folder, tmp_path, generated_rows=3, sink=SINK, rule="box")
    options = AnswerOptions(second_look="always")
    asked = [engine.prepare(picture(seed), QUESTION, LARGE, options) for seed in range(4)]
    together = [engine.start_first_look(one) for one in asked]
    while engine.round():
        pass
    for one, request in zip(asked, together, strict=True):
        alone = Engine(engine.model)
        expected = alone.start_first_look(one)
        while alone.round():
            pass
        found, other = request.future.result(), expected.future.result()
        assert found.region == other.region
        assert found.look.token_ids == other.look.token_ids


def test_a_profile_is_put_over_what_the_folder_says(folder: Path, tmp_path: Path) -> None:
    model = load_model(str(folder), profile=None)
    (tmp_path / "p.json").write_text('{"rule": "box", "share": 0.4}')
    other = load_model(str(folder), profile=str(tmp_path / "p.json"))
    assert other.localisation == replace(model.localisation, rule="box", share=0.4)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nowhere.json", None, "nowhere.json: no such file, and published profiles are llava-1.5-7b,"),
        ("llava-1.5-7b", None, "is for llava with 32 layers, 32 heads and width 4096, but this model is"),
        ("p.json", '{"sink": {"layers": {"9": null}, "threshold": 1}}', "sink.layers.9: the decoder's last"),
        ("p.json", '{"sink": {"layers": {"0": null}, "threshold": 0}}', "should be greater than 0, not 0"),
        ("p.json", '{"sink": {"layers": {"0": null}}}', "threshold"),
        ("p.json", '{"rule": "circle"}', "'squares' or 'box', not 'circle'"),
        ("p.json", '{"share": 1}', "share should be less than 1, not 1"),
        ("p.json", '{"generated_rows": -1}', "generated_rows should be greater than or equal to 0, not -1"),
    ],
)
def test_an_impossible_profile_is_refused_in_one_line(
    folder: Path, tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SecondLookError) as error:
        load_model(str(folder), profile=str(tmp_path / name) if name.endswith("json") else name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_published_profiles_fit_their_models() -> None:
    for name, known in PUBLISHED.items():
        own = Localisation({0: None}, 224)
        found = chosen_profile(name, own, known.model_type, known.shape)
        layers, heads, _ = known.shape
        assert found.sink is not None
        for each in (found.layers, found.sink.layers):
            assert all(
                layer < layers and all(head < heads for head in some or ()) for layer, some in each.items()
            )
        assert (found.rule, found.share, found.generic, found.crop_size) == ("box", 0.2, False, 224)
        assert found.generated_rows > 0
        other = ("llava", (1, 1, 1))
        with pytest.raises(SettingsError, match="1 layers, 1 heads and width 1"):
            chosen_profile(name, own, *other)


def test_the_published_numbers() -> None:
    text, objects = PUBLISHED["qwen3-vl-4b-text"], PUBLISHED["qwen3-vl-8b-objects"]
    assert text.layers == {19: {24: 1.0, 27: 1.0}, 24: {21: 1.0, 23: 1.0}}
    assert text.sink == Sink({24: {6: 0.5, 10: 0.5}}, 1e-2)
    assert objects.sink == Sink({21: {7: 1.0}}, 1e-2)
    assert PUBLISHED["llava-1.5-7b"].sink == Sink({2: None}, 1e-3)
