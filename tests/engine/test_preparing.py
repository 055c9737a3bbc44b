"""What a question and its pictures must be, and where they are prepared, on a random checkpoint."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoints import GRID, IMAGE_SIZE, Variant, write_checkpoint
from engine.questions import LARGE, QUESTION, first, pending_look, picture
from secondlook.edge.errors import GeometryError, SettingsError
from secondlook.edge.geometry import Region
from secondlook.edge.imaging import fit_to_view
from secondlook.edge.wire import AnswerOptions, Box
from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.engine import Engine
from secondlook.engine.errors import (
    EmptyQuestionError,
    PictureMismatchError,
    QuestionTooLongError,
    ReservedTextError,
)
from secondlook.engine.method.region import RegionSettings
from secondlook.engine.models.checkpoint import load_model

CROPS = RegionSettings(IMAGE_SIZE)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("looks"), Variant(seed=11, kv_heads=2))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine(load_model(str(folder)))


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("  ", EmptyQuestionError),
        ("what " * 401, QuestionTooLongError),
        ("?" * 500, QuestionTooLongError),
        ("and <image>?", ReservedTextError),
    ],
)
def test_bad_questions_are_refused(engine: Engine, question: str, kind: type[Exception]) -> None:
    for ask in (engine.prepare, engine.first_look):
        with pytest.raises(kind):
            ask(picture(1), question, LARGE)


def test_a_question_must_leave_room_for_the_second_look(engine: Engine) -> None:
    tokens = engine.model.tokens("?" * 10)
    one, both = (len(engine.model.prompt(tokens, [(GRID, GRID)] * images).ids) for images in (1, 2))
    for second_look, rows in (("never", one), ("auto", both)):
        for more in (0, 1):
            options = AnswerOptions(second_look=second_look, max_new_tokens=512 - rows + more)  # type: ignore[arg-type]
            if more:
                with pytest.raises(QuestionTooLongError, match="there is room for 512"):
                    engine.prepare(picture(1), "?" * 10, LARGE, options)
            else:
                engine.prepare(picture(1), "?" * 10, LARGE, options)


def test_a_cache_may_leave_less_room_than_the_models_context(engine: Engine) -> None:
    small = Engine(engine.model, cache=CacheSettings(text_tokens=60))
    assert first(small, max_new_tokens=4).look == first(engine, max_new_tokens=4).look
    engine.prepare(picture(1), QUESTION, LARGE, AnswerOptions(max_new_tokens=50))
    with pytest.raises(QuestionTooLongError, match="there is room for 132"):
        small.prepare(picture(1), QUESTION, LARGE, AnswerOptions(max_new_tokens=50))


def test_a_cache_without_room_for_one_sequence_is_refused(engine: Engine) -> None:
    with pytest.raises(SettingsError, match="one sequence of this model needs"):
        Engine(engine.model, cache=CacheSettings(gigabytes=1e-6))


@pytest.mark.parametrize("size", [(IMAGE_SIZE, IMAGE_SIZE + 1), (2 * IMAGE_SIZE, 2 * IMAGE_SIZE), (85, 2)])
def test_a_larger_global_image_is_refused(engine: Engine, size: tuple[int, int]) -> None:
    with pytest.raises(PictureMismatchError, match=f"{size[0]}x{size[1]}.*{IMAGE_SIZE}x{IMAGE_SIZE}"):
        engine.first_look(picture(1, size), QUESTION, LARGE)


@pytest.mark.parametrize("wider", [0, 1])
def test_a_region_that_is_asked_for_lies_within_the_original(engine: Engine, wider: int) -> None:
    box = Box(left=0, top=0, right=LARGE.width + wider, bottom=LARGE.height)
    options = AnswerOptions(region=box)
    if wider:
        with pytest.raises(GeometryError, match=f"reaches outside the original of {LARGE} pixels"):
            engine.prepare(picture(1), QUESTION, LARGE, options)
    else:
        asked = engine.prepare(picture(1), QUESTION, LARGE, options)
        assert asked.region == Region(0, 0, LARGE.width, LARGE.height)


@pytest.mark.parametrize("size", [(IMAGE_SIZE, 50), (10, 10)])
def test_a_smaller_global_image_is_enlarged(engine: Engine, size: tuple[int, int]) -> None:
    sent = picture(1, size)
    whole = fit_to_view(sent, engine.card.global_view)
    options = AnswerOptions(second_look="always", max_new_tokens=4)
    one, other = (engine.first_look(image, QUESTION, LARGE, options) for image in (sent, whole))
    assert (one.look, one.region) == (other.look, other.region)


@pytest.mark.parametrize("size", [(84, 84), (84, 42), (50, 25), (2, 1), (1, 84)])
def test_a_local_image_may_be_as_large_as_the_view_or_smaller(engine: Engine, size: tuple[int, int]) -> None:
    pending = replace(pending_look(engine, max_new_tokens=1), region=Region(10, 10, 210, 110))
    assert engine.second_look(pending, picture(2, size)).second.tokens


@pytest.mark.parametrize("size", [(85, 84), (84, 85), (400, 200)])
def test_a_larger_local_image_is_refused(engine: Engine, size: tuple[int, int]) -> None:
    pending = replace(pending_look(engine, max_new_tokens=1), region=Region(10, 10, 210, 110))
    with pytest.raises(PictureMismatchError, match="of 200x100 pixels at most 84x84"):
        engine.second_look(pending, picture(2, size))


@pytest.mark.parametrize("size", [(31, 20), (30, 21), (84, 84)])
def test_a_local_image_larger_than_its_region_is_refused(engine: Engine, size: tuple[int, int]) -> None:
    pending = replace(pending_look(engine, max_new_tokens=1), region=Region(10, 10, 40, 30))
    assert engine.second_look(pending, picture(2, (30, 20))).second.tokens
    with pytest.raises(PictureMismatchError, match="of 30x20 pixels at most 30x20 are taken"):
        engine.second_look(pending, picture(2, size))


def test_questions_are_prepared_on_any_thread_and_tokenised_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = engine.model
    tokenised: list[tuple[str, str]] = []
    tokenise = model.prompts._tokenise

    def noting(question: str) -> Any:
        tokenised.append((threading.current_thread().name.split("_")[0], question))
        return tokenise(question)

    questions = [f"{QUESTION} {number}" * (1 + number % 5) for number in range(1500)]
    expected = [model.prompt(model.tokens(one), [(GRID, GRID)]).ids for one in questions]
    monkeypatch.setattr(model.prompts, "_tokenise", noting)
    with ThreadPoolExecutor(8, thread_name_prefix="preparing") as pool:
        always = AnswerOptions(second_look="always", max_new_tokens=2)
        prepared = list(pool.map(lambda one: engine.prepare(picture(1), one, LARGE, always), questions))
    assert sorted(tokenised) == sorted(("preparing", one) for one in questions)
    assert [one.prompt.ids for one in prepared] == expected
    tokenised.clear()
    first = engine._flows.run(engine.start_first_look(prepared[7]))
    assert first.pending is not None
    local = engine.prepare_local(first.pending, picture(2))
    engine._flows.run(engine.start_second_look(first.pending, local))
    assert tokenised == []  # of none of them more, however many there were since: nor of the generic one
