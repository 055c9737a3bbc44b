"""Pictures asked about again: what is computed once, for whom, and that it changes no answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from engine.checkpoints import IMAGE_SIZE, Variant, write_checkpoint
from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.decode.cache import CacheSettings, KeptPrefix
from secondlook.engine.decode.decoder import Decoder, Prompted
from secondlook.engine.decode.prefixes import PrefixIndex
from secondlook.engine.engine import Engine
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.llava import Llava
from secondlook.engine.results import FirstLook, Pending

QUESTION = "What is the number on the sign?"
OTHER_QUESTION = "Is it a sign?"
LARGE = Size(1000, 800)

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Counts:
    """How much was computed: pictures encoded, and attention rows of generic questions."""

    pictures: int = 0
    generic: int = 0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Llava:
    return load_model(str(write_checkpoint(tmp_path_factory.mktemp("prefixes"), Variant(seed=13))))


@pytest.fixture
def counts(model: Llava, monkeypatch: pytest.MonkeyPatch) -> Counts:
    counts = Counts()
    encode, attention_rows = model._encoder, Decoder.attention_rows

    def counted_encode(pixel_values: Tensor) -> Tensor:
        counts.pictures += len(pixel_values)
        return encode(pixel_values)

    def counted_rows(decoder: Decoder, prompts: list[Prompted]) -> list[Tensor]:
        counts.generic += len(prompts)
        return attention_rows(decoder, prompts)

    monkeypatch.setattr(model, "_encoder", counted_encode)
    monkeypatch.setattr(Decoder, "attention_rows", counted_rows)
    return counts


def picture(seed: int, size: tuple[int, int] = (IMAGE_SIZE, IMAGE_SIZE)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def engine_of(model: Llava, slots: int) -> Engine:
    return Engine(model, cache=CacheSettings(most_slots=slots))


def ask(
    engine: Engine, seed: int = 1, question: str = QUESTION, client: str = "camera", **options: Any
) -> FirstLook:
    """A first look, alone, at a picture fitted anew."""
    wanted = AnswerOptions(**{"second_look": "always", "max_new_tokens": 6, **options})
    task = engine.start_first_look(engine.prepare(picture(seed), question, LARGE, wanted, client=client))
    while engine.round():
        pass
    return task.future.result()


def pending_of(look: FirstLook) -> Pending:
    assert look.pending is not None
    return look.pending


def same(one: FirstLook, other: FirstLook) -> bool:
    return (one.look.token_ids, one.region) == (other.look.token_ids, other.region)


@pytest.mark.parametrize("slots", [1, 4])
def test_the_same_picture_is_not_encoded_again(model: Llava, counts: Counts, slots: int) -> None:
    engine = engine_of(model, slots)
    before = ask(engine)
    assert (counts.pictures, counts.generic) == (1, 1)
    assert same(ask(engine), before)
    other = ask(engine, question=OTHER_QUESTION)
    assert (counts.pictures, counts.generic) == (1, 1)
    assert same(other, ask(engine_of(model, slots), question=OTHER_QUESTION))


def test_another_clients_picture_is_its_own(model: Llava, counts: Counts) -> None:
    engine = engine_of(model, 4)
    before = ask(engine)
    assert same(ask(engine, client="another camera"), before)
    assert (counts.pictures, counts.generic) == (2, 2)
    for client in ("camera", "another camera"):
        ask(engine, client=client)
    assert counts.pictures == 2


def test_another_picture_is_encoded(model: Llava, counts: Counts) -> None:
    engine = engine_of(model, 4)
    ask(engine)
    changed = picture(1)
    changed.putpixel((IMAGE_SIZE - 1, IMAGE_SIZE - 1), (255, 0, 255))
    engine.first_look(changed, QUESTION, LARGE)
    assert counts.pictures == 2


def test_the_generic_row_is_not_computed_where_nothing_is_sought(model: Llava, counts: Counts) -> None:
    engine = engine_of(model, 2)
    ask(engine, second_look="never")
    ask(engine, second_look="auto", threshold=1000.0)
    assert counts.generic == 0
    ask(engine)
    ask(engine)
    assert (counts.pictures, counts.generic) == (1, 1)


def test_a_prefix_in_use_is_copied_for_another_question(model: Llava, counts: Counts) -> None:
    engine = engine_of(model, 3)
    before = ask(engine)
    options = AnswerOptions(second_look="always", max_new_tokens=6)
    tasks = [
        engine.start_first_look(engine.prepare(picture(1), question, LARGE, options, client="camera"))
        for question in (QUESTION, OTHER_QUESTION, QUESTION)
    ]
    while engine.round():
        pass
    assert (counts.pictures, counts.generic) == (1, 1)
    looks = [task.future.result() for task in tasks]
    prefixes = {id(pending_of(look).prefix) for look in looks}
    assert len(prefixes) == 1  # each sequence had a slot of its own, and one is enough to go on from
    assert engine._pool.kept == 1
    assert same(looks[0], before)
    assert same(looks[2], before)
    assert same(looks[1], ask(engine_of(model, 1), question=OTHER_QUESTION))


def test_a_picture_given_up_is_encoded_again(model: Llava, counts: Counts) -> None:
    engine = engine_of(model, 2)
    before = ask(engine, 1)
    ask(engine, 2)
    ask(engine, 1)  # used again: now the second picture is the one kept longest
    ask(engine, 3)
    assert counts.pictures == 3
    assert same(ask(engine, 1), before)
    assert counts.pictures == 3
    ask(engine, 2)
    assert (counts.pictures, counts.generic) == (4, 3)  # the generic question's row is not given up


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_second_look_is_the_same_whether_its_prefix_was_kept(
    model: Llava, counts: Counts, asked_before: bool
) -> None:
    """To the bit, for with one slot each sequence is computed alone."""
    finals, pictures = [], []
    for given_up in (False, True):
        engine = engine_of(model, 1)
        if asked_before:  # the look then continues another question's prefix
            ask(engine, question=OTHER_QUESTION)
        pending = pending_of(ask(engine))
        assert pending.prefix.slot == 0
        if given_up:
            ask(engine, 2)
            assert pending.prefix.slot is None
        counts.pictures = 0
        finals.append(engine.second_look(pending, picture(3)))
        pictures.append(counts.pictures)
        assert pending.prefix.slot == 0  # there it is again
    kept, again = finals
    assert again == replace(kept, seconds=again.seconds)
    assert kept.second.token_ids != kept.first.token_ids
    assert pictures == [1, 2]


def test_what_a_second_look_needs_is_given_up_last(model: Llava, counts: Counts) -> None:
    engine = engine_of(model, 3)
    pending = pending_of(ask(engine, 1))
    for seed in (2, 3, 4, 5):  # surer answers, whose prefixes nobody will come back to
        ask(engine, seed, second_look="never")
    assert pending.prefix.slot is not None
    counts.pictures = 0
    engine.second_look(pending, picture(9))
    assert counts.pictures == 1
    prefix = pending.prefix
    del pending
    for seed in (6, 7, 8):
        ask(engine, seed, second_look="never")
    assert prefix.slot is None


def test_a_prefix_shared_with_a_sure_answer_stays_with_the_second_look(model: Llava, counts: Counts) -> None:
    engine = engine_of(model, 2)
    ask(engine, 1, second_look="never")
    tasks = [
        engine.start_first_look(engine.prepare(picture(seed), QUESTION, LARGE, options, client="camera"))
        for seed, options in (
            (1, AnswerOptions(second_look="never", max_new_tokens=1)),  # continues the kept prefix
            (1, AnswerOptions(second_look="always", max_new_tokens=4, decide_after=4)),  # a copy of it
            (2, AnswerOptions(second_look="never", max_new_tokens=4)),  # takes the first one's slot
        )
    ]
    while engine.round():
        pass
    pending = pending_of(tasks[1].future.result())
    assert pending.prefix.slot is not None
    counts.pictures = 0
    engine.second_look(pending, picture(9))
    assert counts.pictures == 1


def test_questions_that_waited_for_a_slot_find_what_was_computed_meanwhile(
    model: Llava, counts: Counts
) -> None:
    engine = engine_of(model, 1)
    options = AnswerOptions(second_look="never", max_new_tokens=3)
    tasks = [
        engine.start_first_look(engine.prepare(picture(1), question, LARGE, options))
        for question in (QUESTION, OTHER_QUESTION)
    ]
    while engine.round():
        pass
    assert all(task.future.done() for task in tasks)
    assert counts.pictures == 1


def test_a_missing_prefix_does_not_cost_the_others_theirs(model: Llava, counts: Counts) -> None:
    engine = engine_of(model, 3)
    pending = [pending_of(ask(engine, seed)) for seed in (1, 2, 3, 4)]
    assert [one.prefix.slot is None for one in pending] == [True, False, False, False]
    counts.pictures = 0
    tasks = [engine.start_second_look(one, engine.prepare_local(one, picture(9))) for one in pending]
    while engine.round():
        pass
    assert all(task.future.result() for task in tasks)
    assert counts.pictures == 4 + 1


def test_a_second_look_may_be_repeated_and_another_question_follow(model: Llava, counts: Counts) -> None:
    engine = engine_of(model, 1)
    before = ask(engine)
    one = engine.second_look(pending_of(before), picture(3))
    other = engine.second_look(pending_of(before), picture(4))
    again = engine.second_look(pending_of(before), picture(3))
    assert again == replace(one, seconds=again.seconds)
    assert other.second.token_ids != one.second.token_ids
    assert same(ask(engine), before)
    assert counts.pictures == 4  # the global image once, and each local one


def test_a_recomputed_prefix_is_known_again_to_first_looks(model: Llava, counts: Counts) -> None:
    engine = engine_of(model, 1)
    pending = pending_of(ask(engine))
    ask(engine, 2)
    engine.second_look(pending, picture(3))
    counts.pictures, counts.generic = 0, 0
    ask(engine)
    assert (counts.pictures, counts.generic) == (0, 0)


def kept_in(slot: int | None) -> KeptPrefix:
    prefix = KeptPrefix(5, 5)
    prefix.slot = slot
    return prefix


def test_the_index_finds_what_it_was_told() -> None:
    index, prefix = PrefixIndex(2), kept_in(1)
    assert index.find("a", "x") is None
    index.remember(prefix, "a", "x")
    assert index.find("a", "x") is prefix
    assert index.find("b", "x") is None
    assert index.find("a", "y") is None


def test_the_index_does_not_grow_with_pictures_seen() -> None:
    index = PrefixIndex(3)
    there = [kept_in(slot) for slot in range(3)]
    for number in range(100):
        index.remember(kept_in(None), "a", f"gone {number}")
        index.remember(there[number % 3], "a", f"there {number % 3}")
        assert len(index._known) <= 6 + 1
    assert [index.find("a", f"there {number}") for number in range(3)] == there
