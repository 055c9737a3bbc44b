"""What answers tell of their tokens besides: equal to transformers' own, and of no cost to the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import LlavaForConditionalGeneration

from engine.checkpoints import Variant, write_checkpoint
from engine.questions import LARGE, QUESTION, picture
from secondlook.edge.errors import SettingsError
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.decode.token_options import ONLY_TOKENS, TokenOptions
from secondlook.engine.engine import Engine
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.results import FirstLook, Look

pytestmark = pytest.mark.usefixtures("one_thread")

NEVER = AnswerOptions(second_look="never", max_new_tokens=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tokens"), Variant(seed=11, kv_heads=2))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine(load_model(str(folder)))


def looked(
    engine: Engine, wanted: TokenOptions = ONLY_TOKENS, options: AnswerOptions = NEVER
) -> tuple[FirstLook, list[Look]]:
    """A first look, and what it told of its tokens meanwhile."""
    told: list[Look] = []
    asked = engine.prepare(picture(1), QUESTION, LARGE, options, wanted=wanted)
    request = engine.start_first_look(asked, on_tokens=told.append)
    while engine.round():
        pass
    return request.future.result(timeout=0), told


def test_the_likeliest_tokens_are_those_of_transformers(engine: Engine, folder: Path) -> None:
    found, _ = looked(engine, TokenOptions(likeliest=5))
    asked = engine.prepare(picture(1), QUESTION, LARGE, NEVER)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([asked.prompt.ids + found.look.token_ids])
    pixels = engine.model.pixel_inputs([asked.picture])
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **pixels).logits[0]
    start = len(asked.prompt.ids) - 1
    assert len(found.look.likeliest) == len(found.look.token_ids)
    for place, likeliest in enumerate(found.look.likeliest):
        values, tokens = logits[start + place].log_softmax(0).topk(5)
        assert [token for token, _ in likeliest] == tokens.tolist()
        assert [value for _, value in likeliest] == pytest.approx(values.tolist(), abs=1e-4)
        assert likeliest[0][1] == pytest.approx(-found.tokens[place].min_entropy, abs=1e-4)


def test_an_answer_that_asks_changes_none_beside_it(engine: Engine) -> None:
    alone, _ = looked(engine)
    assert alone.look.likeliest == ()
    asked = [
        engine.prepare(picture(1), QUESTION, LARGE, NEVER, wanted=wanted)
        for wanted in (ONLY_TOKENS, TokenOptions(likeliest=2), TokenOptions(least=8))
    ]
    requests = [engine.start_first_look(one) for one in asked]
    while engine.round():
        pass
    plain, likely, long = (request.future.result(timeout=0).look for request in requests)
    assert plain.token_ids == likely.token_ids == alone.look.token_ids
    assert plain.likeliest == long.likeliest == ()
    assert [len(places) for places in likely.likeliest] == [2] * len(likely.token_ids)
    again, _ = looked(engine)  # in a slot that had such an answer
    assert again.look.likeliest == ()


def test_an_answer_does_not_end_before_its_least(engine: Engine) -> None:
    ends = engine.model.eos_ids
    everything = Engine(engine.model)
    everything.model.eos_ids = frozenset(range(1000))  # whatever it says ends an answer
    try:
        for least in (0, 1, 5):
            found, _ = looked(Engine(everything.model), TokenOptions(least=least))
            assert len(found.tokens) == 1 or least > 1
    finally:
        engine.model.eos_ids = ends
    first = looked(engine)[0].look.token_ids[0]
    engine.model.eos_ids = ends | {first}
    try:
        other = Engine(engine.model)
        short, _ = looked(other)
        assert short.look.token_ids == (first,)
        least, _ = looked(other, TokenOptions(least=3, likeliest=3))
        assert len(least.tokens) >= 3
        assert first not in least.look.token_ids[:3]
        assert all(token != first for place in least.look.likeliest[:3] for token, _ in place)
    finally:
        engine.model.eos_ids = ends


def test_tokens_that_stand_are_told_as_they_come(engine: Engine) -> None:
    found, told = looked(engine)
    assert found.decision == "disabled"
    lengths = [len(look.token_ids) for look in told]
    assert lengths == sorted(set(lengths))
    assert lengths[0] == 1
    for look in told:
        assert found.look.token_ids[: len(look.token_ids)] == look.token_ids
    sure = AnswerOptions(threshold=1000.0, decide_after=3, max_new_tokens=8)
    found, told = looked(engine, options=sure)
    assert (found.decision, len(told[0].token_ids)) == ("sure", 3)


def test_tokens_that_may_be_replaced_are_not_told(engine: Engine) -> None:
    found, told = looked(engine, options=AnswerOptions(second_look="always", max_new_tokens=8))
    assert (found.decision, told) == ("unsure", [])


@pytest.mark.parametrize(("arbitration", "tells"), [(True, False), (False, True)])
def test_a_second_answer_is_told_where_it_stands_in_any_case(
    engine: Engine, arbitration: bool, tells: bool
) -> None:
    options = AnswerOptions(second_look="always", arbitration=arbitration, max_new_tokens=8)
    pending = looked(engine, options=options)[0].pending
    assert pending is not None
    told: list[Look] = []
    local = engine.prepare_local(pending, picture(2, (4, 4)))
    request = engine.start_second_look(pending, local, on_tokens=told.append)
    while engine.round():
        pass
    assert bool(told) == tells
    if tells:
        assert (
            request.future.result(timeout=0).second.token_ids[: len(told[-1].token_ids)] == told[-1].token_ids
        )


def test_a_limit_that_is_but_a_bound_is_lowered_to_what_has_room(engine: Engine) -> None:
    vast = AnswerOptions(second_look="never", max_new_tokens=100_000)
    asked = engine.prepare(picture(1), QUESTION, LARGE, vast, wanted=TokenOptions(bounded=True))
    assert 1 < asked.max_new_tokens < 100_000


@pytest.mark.parametrize("fields", [{"likeliest": -1}, {"likeliest": 21}, {"least": -1}])
def test_impossible_options_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises((SettingsError, ValidationError)):
        TokenOptions(**fields)
