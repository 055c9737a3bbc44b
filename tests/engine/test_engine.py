"""The two looks: decisions, options, maps, regions and bad input, on a random checkpoint."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from edge.support import square
from engine.checkpoints import GRID, IMAGE_SIZE, Variant, write_checkpoint
from engine.questions import LARGE, QUESTION, first, pending_look, picture
from secondlook.edge.geometry import Region, Size, sent_size
from secondlook.edge.wire import PROTOCOL, AnswerOptions
from secondlook.engine.decode.cache import KeptPrefix
from secondlook.engine.decode.flows import Request
from secondlook.engine.engine import Engine
from secondlook.engine.errors import (
    NonFiniteError,
)
from secondlook.engine.method.maps import AttentionMaps
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.region import RegionSettings, find_region
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.prompts import GENERIC_QUESTION
from secondlook.engine.results import FirstLook, Pending

CROPS = RegionSettings(IMAGE_SIZE)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("looks"), Variant(seed=11, kv_heads=2))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine(load_model(str(folder)))


def test_an_unsure_answer_names_a_region_and_can_be_continued(engine: Engine) -> None:
    look = first(engine, threshold=0.0)
    assert look.decision == "unsure"
    assert look.pending is not None
    assert look.region is not None
    assert look.region == look.pending.region
    assert look.region.within(LARGE)
    assert look.pending.first == look.look
    assert look.pending.prefix.slot is not None


def test_a_sure_answer_is_final(engine: Engine) -> None:
    look = first(engine, threshold=1000.0)
    assert (look.decision, look.region, look.pending, look.maps) == ("sure", None, None, None)


def test_the_threshold_itself_is_unsure(engine: Engine) -> None:
    uncertainty = first(engine, max_new_tokens=5).uncertainty
    assert first(engine, threshold=uncertainty, max_new_tokens=5).decision == "unsure"
    above = float(np.nextafter(uncertainty, 1e9))
    assert first(engine, threshold=above, max_new_tokens=5).decision == "sure"


@pytest.mark.parametrize("tokens", [1, 3, 20])
def test_the_first_tokens_decide_and_all_are_answered(engine: Engine, tokens: int) -> None:
    decided = first(engine, max_new_tokens=tokens, threshold=0.0).uncertainty
    whole = first(engine)
    above = float(np.nextafter(decided, 1e9))
    for threshold, decision in ((decided, "unsure"), (above, "sure")):
        look = first(engine, threshold=threshold, decide_after=tokens)
        assert look.decision == decision
        assert look.look == whole.look
    assert tokens == 20 or decided != whole.uncertainty


def test_always_and_never_overrule_the_threshold(engine: Engine) -> None:
    assert first(engine, threshold=1000.0, second_look="always").decision == "unsure"
    never = first(engine, threshold=0.0, second_look="never")
    assert (never.decision, never.pending, never.maps) == ("disabled", None, None)
    assert never.look == first(engine).look


@pytest.mark.parametrize("second_look", ["auto", "always"])
def test_a_small_original_has_no_detail_to_gain(engine: Engine, second_look: str) -> None:
    look = first(engine, Size(IMAGE_SIZE, IMAGE_SIZE), threshold=0.0, second_look=second_look)
    assert (look.decision, look.region, look.pending) == ("no_detail_to_gain", None, None)


def test_a_region_of_the_whole_image_has_no_detail_to_gain(engine: Engine) -> None:
    wide = Engine(engine.model, region=RegionSettings(crop_size=5000))
    look = first(wide, second_look="always")
    assert (look.decision, look.pending) == ("no_detail_to_gain", None)
    assert look.region == Region(0, 0, LARGE.width, LARGE.height)


def test_maps_and_region_follow_from_each_other(engine: Engine) -> None:
    look = first(engine, second_look="always")
    assert look.maps is not None
    assert look.maps.question.shape == (GRID, GRID)
    assert 0 < look.maps.question.sum() <= 1
    relative = look.maps.question.double() / look.maps.generic.double()
    assert np.array_equal(look.maps.relative(), relative.numpy())
    assert look.region == find_region(relative, torch.ones_like(relative), LARGE, CROPS)


def test_the_generic_questions_own_relative_attention_is_one(engine: Engine) -> None:
    options = AnswerOptions(second_look="always")
    maps = engine.first_look(picture(1), GENERIC_QUESTION, LARGE, options).maps
    assert maps is not None
    np.testing.assert_allclose(maps.relative(), np.ones((GRID, GRID)), rtol=1e-5)


def test_in_pad_mode_the_region_is_sought_in_the_padded_square(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, Variant(seed=11, kv_heads=2))
    (folder / "secondlook.json").write_text('{"fit": "pad"}')
    engine, original = Engine(load_model(str(folder))), Size(1000, 300)
    sent = picture(1, (IMAGE_SIZE, 25))
    look = engine.first_look(sent, QUESTION, original, AnswerOptions(second_look="always"))
    assert look.maps is not None
    seen = Size(IMAGE_SIZE, IMAGE_SIZE)
    assert look.region == find_region(look.maps.question, look.maps.generic, original, CROPS, seen, "pad")


def test_the_heads_and_layers_of_a_checkpoints_file_are_read(folder: Path, tmp_path: Path) -> None:
    Path(shutil.copytree(folder, tmp_path / "model"))
    where = {"layers": {"3": {"1": 0.75, "2": 0.25}, "1": {"0": 2}, "2": None}, "generic": False}
    where["crop_size"] = 50
    (tmp_path / "model" / "localisation.json").write_text(json.dumps(where))
    engine = Engine(load_model(str(tmp_path / "model")))
    look = first(engine, second_look="always")
    assert look.maps is not None
    asked = engine.prepare(picture(1), QUESTION, LARGE)
    eager = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    pixels = engine.model.normalisation.on(torch.device("cpu"))([asked.picture])
    with torch.inference_mode():
        found = eager(
            input_ids=torch.tensor([asked.prompt.ids]), pixel_values=pixels, output_attentions=True
        ).attentions
    rows = [layer[0, :, -1, slice(*asked.prompt.spans[0])] for layer in found]
    row = 0.75 * rows[3][1] + 0.25 * rows[3][2] + 2 * rows[1][0] + rows[2].mean(0)
    expected = row.reshape(GRID, GRID)
    torch.testing.assert_close(look.maps.question, expected, atol=1e-6, rtol=1e-4)
    assert torch.equal(look.maps.generic, torch.ones(GRID, GRID))
    assert look.region == find_region(expected, torch.ones(GRID, GRID), LARGE, RegionSettings(50))


@pytest.mark.parametrize("options", [{"threshold": 1000.0}, {"threshold": 0.0}, {"second_look": "never"}])
def test_relevance_is_there_when_asked_for(engine: Engine, options: dict[str, Any]) -> None:
    plain, look = first(engine, **options), first(engine, relevance=True, **options)
    assert (look.decision, look.look) == (plain.decision, plain.look)
    assert (plain.maps is None) == (plain.decision != "unsure")
    assert look.maps is not None
    assert plain.relevance is None
    assert look.relevance == look.maps.relevance()
    relative, told = look.maps.relative(), look.relevance
    assert told is not None
    assert (told.height, told.width) == relative.shape
    expected = np.rint(relative / relative.max() * 255)
    assert np.abs(np.array(told.rows()) - expected).max() <= 1
    assert max(map(max, told.rows())) == 255


def test_measures_and_aggregations_are_those_asked_for(engine: Engine) -> None:
    default = first(engine)
    tokens = default.tokens
    assert default.uncertainty == pytest.approx(np.mean([token.min_entropy for token in tokens]))
    shannon = first(engine, measure="shannon_entropy", threshold=1, aggregation="first").uncertainty
    assert shannon == tokens[0].shannon_entropy
    margin = first(engine, measure="margin", threshold=1, aggregation="first_k", first_k=3).uncertainty
    assert margin == pytest.approx(np.mean([token.margin for token in tokens[:3]]))


def test_include_eos_is_followed(engine: Engine, tmp_path: Path) -> None:
    eos = first(engine).look.token_ids[1]
    stopping = Engine(load_model(str(write_checkpoint(tmp_path, Variant(seed=11, kv_heads=2, eos=eos)))))
    tokens = first(stopping).tokens
    assert [token.is_eos for token in tokens] == [False, True]
    assert first(stopping, include_eos=False).uncertainty == tokens[0].min_entropy


def test_answers_are_as_long_as_asked_for(engine: Engine) -> None:
    assert len(first(engine).tokens) == 20
    assert len(first(engine, max_new_tokens=3).tokens) == 3
    assert len(engine.second_look(pending_look(engine, max_new_tokens=3), picture(2)).second.tokens) == 3


def test_the_second_look_sees_the_local_image(engine: Engine) -> None:
    pending = pending_look(engine, arbitration=False)
    size = sent_size(engine.card.local_view, pending.region.size)
    side = (size.width, size.height)
    one, other = engine.second_look(pending, picture(2, side)), engine.second_look(pending, picture(3, side))
    assert one.second != other.second
    assert (one.decision, one.look) == ("took_second", one.second)
    assert one == replace(engine.second_look(pending, picture(2, side)), seconds=one.seconds)


def test_arbitration_keeps_the_surer_answer(engine: Engine) -> None:
    pending = pending_look(engine)
    second = engine.second_look(pending, picture(2)).second
    for shift, decision in ((+0.1, "took_second"), (0.0, "took_second"), (-0.1, "kept_first")):
        known = replace(pending, first=replace(pending.first, uncertainty=second.uncertainty + shift))
        final = engine.second_look(known, picture(2))
        assert final.decision == decision
        assert final.look == (final.second if decision == "took_second" else final.first)
        assert (final.first, final.region) == (known.first, known.region)
    policy = replace(known.question.policy, arbitration=False)
    stubborn = replace(known, question=replace(known.question, policy=policy))
    assert engine.second_look(stubborn, picture(2)).decision == "took_second"


def test_every_stage_is_timed(engine: Engine) -> None:
    engine = Engine(engine.model)  # one that has not encoded this picture yet
    look = first(engine, second_look="always")
    assert look.pending is not None
    for seconds in (look.seconds, engine.second_look(look.pending, picture(2)).seconds):
        assert min(seconds.encode, seconds.prefill, seconds.decode) > 0
        assert seconds.queue >= 0
        assert seconds.decode_image == 0


def test_the_stages_add_up_to_the_look(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed between two passes belongs to one of them, and the clock misses nothing."""
    engine, late = Engine(load_model(str(folder))), 0.05
    slow = {"condition": "encode", "rows": "prefill", "attention_map": "prefill", "text": "decode"}
    for name in slow:
        monkeypatch.setattr(engine.model, name, _slowly(getattr(engine.model, name), late))
    monkeypatch.setattr(AttentionMaps, "relevance", _slowly(AttentionMaps.relevance, late))
    asked = engine.prepare(picture(1), QUESTION, LARGE, AnswerOptions(second_look="always", relevance=True))
    before = time.perf_counter()
    look = engine._flows.run(engine.start_first_look(asked))
    between = time.perf_counter()
    assert look.pending is not None
    local = engine.prepare_local(look.pending, picture(2))
    begun = time.perf_counter()
    final = engine._flows.run(engine.start_second_look(look.pending, local))
    ended = time.perf_counter()
    for seconds, whole in ((look.seconds, between - before), (final.seconds, ended - begun)):
        assert whole - 3 * late < sum(seconds.model_dump().values()) <= whole  # a busy machine may pause us
        assert min(seconds.encode, seconds.prefill, seconds.decode) > late
        assert seconds.queue < 3 * late
    assert look.seconds.prefill > 5 * late  # two prompts' rows, two maps, and the map that travels


def _slowly(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def slow(*arguments: Any) -> Any:
        time.sleep(seconds)
        return function(*arguments)

    return slow


@pytest.mark.parametrize(("answer", "decide_after"), [(8, 3), (8, 1), (4, 3)])
def test_the_region_is_told_once_and_early(engine: Engine, answer: int, decide_after: int) -> None:
    """As soon as `decide_after` tokens are there; the answer's other tokens come after it."""
    told: list[FirstLook] = []
    decoded: list[int] = []

    def on_region(look: FirstLook) -> None:
        assert look.pending is not None
        assert not task.future.done()
        told.append(look)
        decoded.append(int(engine._decoder.record.lengths[look.pending.prefix.slot]))

    options = AnswerOptions(second_look="always", max_new_tokens=answer, decide_after=decide_after)
    asked = engine.prepare(picture(1), QUESTION, LARGE, options)
    task = engine.start_first_look(asked, on_region=on_region)
    while engine.round():
        pass
    [early], look = told, task.future.result()
    assert decoded == [decide_after]
    assert len(look.tokens) == answer
    assert early.look.token_ids == look.look.token_ids[:decide_after]
    assert (early.region, early.decision) == (look.region, "unsure")
    assert early.pending is not None
    assert early.pending.first == early.look
    assert look.pending is not None
    assert look.pending.prefix is early.pending.prefix
    assert (look.pending.first, look.pending.region) == (look.look, early.region)
    assert look.look.token_ids == first(engine, max_new_tokens=answer).look.token_ids


@pytest.mark.parametrize(
    ("options", "decision"),
    [
        ({"second_look": "never"}, "disabled"),
        ({"threshold": 1000.0}, "sure"),
        ({"second_look": "always", "max_new_tokens": 5, "decide_after": 5}, "unsure"),
        ({"second_look": "always", "max_new_tokens": 2}, "unsure"),
    ],
)
def test_no_region_is_told_early_of_what_is_final(
    engine: Engine, options: dict[str, Any], decision: str
) -> None:
    """Neither where none is sought, nor where the answer that comes with it is complete."""
    told: list[FirstLook] = []
    asked = engine.prepare(picture(1), QUESTION, LARGE, AnswerOptions(**options))
    task = engine.start_first_look(asked, on_region=told.append)
    while engine.round():
        pass
    assert task.future.result().decision == decision
    assert (task.future.result().pending is not None) == (decision == "unsure")
    assert told == []


def early_region(engine: Engine, **options: Any) -> tuple[Request[FirstLook], Pending]:
    """A first look that goes on, and what its region was told with."""
    told: list[FirstLook] = []
    asked = engine.prepare(picture(1), QUESTION, LARGE, AnswerOptions(second_look="always", **options))
    task = engine.start_first_look(asked, on_region=told.append)
    while not told:
        engine.round()
    [look] = told
    assert look.pending is not None
    return task, look.pending


def test_a_second_look_begun_early_is_weighed_against_the_whole_first(engine: Engine) -> None:
    differs = []
    for seed in range(2, 12):
        task, pending = early_region(engine, decide_after=1)
        local = engine.prepare_local(pending, picture(seed))
        second = engine.start_second_look(pending, local, after=task)
        while engine.round():
            pass
        final, known = second.future.result(), task.future.result()
        assert final.first == known.look
        assert len(final.first.tokens) > len(pending.first.tokens)
        took = final.second.uncertainty <= known.uncertainty
        assert final.decision == ("took_second" if took else "kept_first")
        late = engine.second_look(pending, picture(seed)).second
        assert final.second.token_ids == late.token_ids
        assert final.second.uncertainty == pytest.approx(late.uncertainty, rel=1e-4)
        differs.append(took != (final.second.uncertainty <= pending.first.uncertainty))
    assert any(differs)  # the first tokens alone would have decided otherwise


def test_a_first_look_that_fails_late_fails_its_second(engine: Engine) -> None:
    fresh = Engine(engine.model)
    task, pending = early_region(fresh, decide_after=2)
    second = fresh.start_second_look(pending, fresh.prepare_local(pending, picture(2)), after=task)
    for values in fresh._decoder.cache.values:  # what the first look still reads, and the second does not
        values[pending.prefix.slot, :, pending.prefix.length :] = float("nan")
    while fresh.round():
        pass
    assert isinstance(task.future.exception(), NonFiniteError)
    assert second.future.exception() is task.future.exception()
    expected = (
        Engine(engine.model)
        .second_look(
            replace(pending, prefix=KeptPrefix(pending.prefix.length, pending.prefix.length)), picture(2)
        )
        .second
    )
    assert fresh.second_look(pending, picture(2)).second.token_ids == expected.token_ids


def test_values_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    model = load_model(str(write_checkpoint(tmp_path, Variant())))
    model.module.model.language_model.norm.weight.data[5] = float("nan")
    with pytest.raises(NonFiniteError, match="in float32; its weights or its settings are damaged"):
        first(Engine(model))


def test_the_policy_of_the_engine_is_the_default(engine: Engine) -> None:
    strict = Engine(engine.model, Policy(threshold=1000.0, measure="margin"))
    look = first(strict)
    assert look.decision == "sure"
    assert look.uncertainty == pytest.approx(np.mean([token.margin for token in look.tokens]))


def test_the_card_says_what_an_edge_must_know(engine: Engine) -> None:
    card = engine.card
    assert card.global_view == card.local_view == square(IMAGE_SIZE)
    assert (card.crop_size, card.threshold, card.protocol, card.limits) == (IMAGE_SIZE, 0.5, PROTOCOL, None)
    assert card.name == engine.model.name


def test_an_answer_travels_with_its_token_count(engine: Engine) -> None:
    look = first(engine, max_new_tokens=4).look
    assert (look.answer.text, look.answer.uncertainty, look.answer.tokens) == (look.text, look.uncertainty, 4)
    assert look.answer.visual_tokens == GRID * GRID
    second = engine.second_look(pending_look(engine, max_new_tokens=1), picture(2)).second
    assert (second.visual_tokens, second.answer.visual_tokens) == (2 * GRID * GRID,) * 2
    assert second.prompt_tokens > look.prompt_tokens + GRID * GRID
