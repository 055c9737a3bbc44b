"""Lessons: packing changes nothing for any question, and attention is taught where the sign is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from secondlook.benchmarks.signs.scene import COLOURS
from secondlook.engine.models.prompts import ChatPrompts
from training.closeups import IGNORED
from training.lessons import Batch, Lesson, Lessons, Look, Packed, collate
from training.model import (
    CHAT_TEMPLATE,
    GRID,
    IMAGE_SIZE,
    build_model,
    build_tokenizer,
)
from training.pretrain import PatchHead, pixels_to_float, tower_features
from training.train import look_losses, start_projector

CELLS = GRID * GRID
TOKENIZER = build_tokenizer()
IMAGE_TOKEN = TOKENIZER.encode("<image>", add_special_tokens=False)[0]
PROMPTS = ChatPrompts(TOKENIZER, chat_template=CHAT_TEMPLATE, placeholder=IMAGE_TOKEN)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def lessons() -> list[Lesson]:
    return list(islice(Lessons(TOKENIZER, IMAGE_TOKEN, seed=21), 6))


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    """Untrained, its weights spread so far that what a token sees decides what it predicts."""
    model = build_model(TOKENIZER, seed=9)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.train(False)
    return model


@dataclass(frozen=True)
class Asked:
    """One question of a look: its prompt and answer ids, and where its own tokens lie in the packed row."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    places: tuple[int, ...]


def head_of(look: Look) -> list[int]:
    return [token for token, segment in zip(look.ids, look.segments, strict=True) if segment == 0]


def taken_apart(look: Look) -> list[Asked]:
    """The questions of a look, each with the pictures' tokens in front, from segments and labels alone."""
    found = []
    for number in range(1, max(look.segments) + 1):
        places = tuple(place for place, segment in enumerate(look.segments) if segment == number)
        answer = tuple(look.labels[place] for place in places if look.labels[place] != IGNORED)
        question = tuple(look.ids[place] for place in places[: len(places) - len(answer) + 1])
        found.append(Asked((*head_of(look), *question), answer, places))
    return found


def looks_of(lessons: list[Lesson]) -> list[tuple[Look, int]]:
    return [pair for lesson in lessons for pair in ((lesson.first, 1), (lesson.second, 2))]


def text_of(ids: tuple[int, ...]) -> str:
    text = TOKENIZER.decode(list(ids), clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def visual_features(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    features = tower_features(model.model.vision_tower, pixels_to_float(pixels))
    visual: Tensor = model.model.multi_modal_projector(features)
    return visual


def packed_logits(
    model: LlavaForConditionalGeneration, packed: Packed, visual: Tensor, mask: Tensor
) -> Tensor:
    """Logits [B, T, V] of packed rows, from the masks and positions that training uses."""
    language = model.model.language_model
    embeddings = language.embed_tokens(packed.ids)
    index = packed.images[..., None].expand(-1, -1, embeddings.shape[-1])
    output = language(
        inputs_embeds=embeddings.scatter(1, index, visual),
        attention_mask=torch.zeros(mask.shape).masked_fill(~mask, float("-inf")),
        position_ids=packed.positions,
        use_cache=False,
    )
    logits: Tensor = model.lm_head(output.last_hidden_state)
    return logits


def alone(model: LlavaForConditionalGeneration, asked: Asked, pixels: Tensor) -> Tensor:
    """Logits of the answer's tokens by the model's own forward pass over the plain prompt."""
    ids = torch.tensor([[*asked.prompt, *asked.answer[:-1]]])
    logits: Tensor = model(input_ids=ids, pixel_values=pixels_to_float(pixels), use_cache=False).logits
    return logits[0, -len(asked.answer) :]


def split(lessons: list[Lesson], batch: Batch, pictures: int) -> tuple[Packed, list[Look], list[Tensor]]:
    """One kind of look of a batch: as packed, as it was, and the pictures of each row."""
    rows = len(batch.first.ids if pictures == 1 else batch.second.ids)
    packed = batch.first if pictures == 1 else batch.second
    looks = [lesson.first if pictures == 1 else lesson.second for lesson in lessons[:rows]]
    parts = [batch.pixels[:rows], batch.pixels[len(lessons) :]][:pictures]
    return packed, looks, parts


@pytest.mark.parametrize("pictures", [1, 2])
def test_a_packed_question_sees_what_it_would_alone(
    lessons: list[Lesson], model: LlavaForConditionalGeneration, pictures: int
) -> None:
    few = lessons[:3]
    packed, looks, parts = split(few, collate(few, IMAGE_TOKEN), pictures)
    compared = careless_error = 0.0
    with torch.inference_mode():
        visual = torch.cat([visual_features(model, part) for part in parts], dim=1)
        logits = packed_logits(model, packed, visual, packed.mask)
        everything = torch.ones_like(packed.mask[0]).tril().expand_as(packed.mask)
        careless = packed_logits(model, packed, visual, everything)
        for row, look in enumerate(looks):
            for number, asked in enumerate(taken_apart(look)):
                places = list(asked.places[-len(asked.answer) :])
                expected = alone(model, asked, few[row].pixels[:pictures])
                torch.testing.assert_close(logits[row, places], expected, atol=1e-4, rtol=1e-4)
                if number:
                    error = float((careless[row, places] - expected).abs().max())
                    careless_error = max(careless_error, error)
                compared += 1
    assert compared >= 2 * len(looks) > 2
    assert careless_error > 0.01, "questions that saw one another would not have been noticed"


def test_a_packed_question_is_the_prompt_that_the_server_builds(lessons: list[Lesson]) -> None:
    for look, pictures in looks_of(lessons):
        for asked in taken_apart(look):
            own = text_of(asked.prompt[len(head_of(look)) :])
            question = own.removeprefix("\n").removesuffix(" ASSISTANT:")
            assert asked.prompt == PROMPTS.ids(PROMPTS.tokens(question), [CELLS] * pictures)[0]


def test_answers_are_what_is_learnt_and_end(lessons: list[Lesson]) -> None:
    kinds = set()
    for look, _ in looks_of(lessons):
        for asked in taken_apart(look):
            assert asked.answer[-1] == TOKENIZER.eos_token_id
            answer, prompt = text_of(asked.answer[:-1]), text_of(asked.prompt)
            if "number" in prompt:
                kinds.add("read")
                assert 10 <= int(answer) <= 99
            elif "sign in " in prompt or "see a" in prompt:
                kinds.add("exists")
                assert answer in ("yes", "no")
            else:
                kinds.add("describe")
                assert answer.startswith("signs in ")
    assert kinds == {"read", "exists", "describe"}


def test_targets_are_distributions(lessons: list[Lesson]) -> None:
    for look, pictures in looks_of(lessons):
        assert len(look.probes) == len(look.targets) == len(look.cues) > 0
        for target in look.targets:
            assert target.shape == (pictures * CELLS,)
            assert target.dtype == np.float32
            assert target.min() >= 0
            assert target.sum() == pytest.approx(1, abs=1e-5)


def test_cues_are_the_asked_colour_and_probes_predict_the_answer(lessons: list[Lesson]) -> None:
    colours = {f" {colour}" for colour in COLOURS}
    for look, _ in looks_of(lessons):
        for probe, cue in zip(look.probes, look.cues, strict=True):
            assert look.labels[probe] != IGNORED
            if cue >= 0:
                assert look.segments[cue] == look.segments[probe]
                assert text_of((look.ids[cue],)) in colours
            else:
                answer = next(a for a in taken_apart(look) if probe in a.places).answer
                assert text_of(answer).startswith("signs in ")


def test_attention_is_taught_where_the_patches_show_the_asked_colour(lessons: list[Lesson]) -> None:
    """The peak in each picture lies on a patch labelled with the cue's colour; none asked for: even."""
    labels = {f" {colour}": label for label, colour in enumerate(COLOURS, start=1)}
    peaked = total = even = 0
    for lesson in lessons:
        for look, pictures in ((lesson.first, 1), (lesson.second, 2)):
            for cue, target in zip(look.cues, look.targets, strict=True):
                if np.ptp(target) == 0:
                    even += 1
                    continue
                assert cue >= 0
                wanted = labels[text_of((look.ids[cue],))]
                for part in range(pictures):
                    weights = target[part * CELLS : (part + 1) * CELLS]
                    if weights.max() == 0:
                        continue  # the region does not show this sign
                    shown = int(lesson.patches[part, 0].flatten()[int(weights.argmax())])
                    assert shown != 0
                    peaked += shown == wanted
                    total += 1
    assert total > 20
    assert peaked / total > 0.9, "only a patch shared by two signs may have the other's colour"
    assert even > 0


def test_pictures_and_patches_have_the_models_size(lessons: list[Lesson]) -> None:
    for lesson in lessons:
        assert lesson.pixels.shape == (2, 3, IMAGE_SIZE, IMAGE_SIZE)
        assert lesson.pixels.dtype == torch.uint8
        assert lesson.patches.shape == (2, 4, GRID, GRID)


def test_lessons_are_a_function_of_the_seed(lessons: list[Lesson]) -> None:
    again, other = (next(iter(Lessons(TOKENIZER, IMAGE_TOKEN, seed))) for seed in (21, 22))
    assert torch.equal(again.pixels, lessons[0].pixels)
    assert again.first.ids == lessons[0].first.ids
    assert again.second.labels == lessons[0].second.labels
    assert not torch.equal(other.pixels, again.pixels)


def test_padding_changes_no_row_and_sees_no_picture(lessons: list[Lesson]) -> None:
    batch = collate(lessons, IMAGE_TOKEN)
    assert len(batch.first.ids) == len(lessons)
    assert len(batch.pixels) == len(batch.patches) == len(batch.first.ids) + len(batch.second.ids)
    for pictures in (1, 2):
        packed, looks, _ = split(lessons, batch, pictures)
        assert packed.mask.any(-1).all(), "a token that sees nothing would be NaN"
        for row, look in enumerate(looks):
            length = len(look.ids)
            assert packed.ids[row, :length].tolist() == look.ids
            assert packed.positions[row, :length].tolist() == look.positions
            assert packed.labels[row, :length].tolist() == look.labels
            assert (packed.labels[row, length:] == IGNORED).all()
            assert not packed.mask[row, 0, length:, :length].any()
            assert not packed.mask[row, 0, :length, length:].any()
            assert (packed.ids[row, packed.images[row]] == IMAGE_TOKEN).all()
        assert len(packed.probes) == len(packed.targets) == sum(len(look.probes) for look in looks)


def test_pictures_come_before_their_details(lessons: list[Lesson]) -> None:
    batch = collate(lessons, IMAGE_TOKEN)
    twice = len(batch.second.ids)
    order = [(lesson, 0) for lesson in lessons] + [(lesson, 1) for lesson in lessons[:twice]]
    for row, (lesson, part) in enumerate(order):
        assert torch.equal(batch.pixels[row], lesson.pixels[part])
        assert torch.equal(batch.patches[row], lesson.patches[part])


def test_the_projector_starts_with_standard_outputs() -> None:
    model = build_model(TOKENIZER, seed=2)
    features = torch.randn(2, 300, 192, generator=torch.Generator().manual_seed(1)) * 3 + 5
    start_projector(model, PatchHead(192), features)
    with torch.inference_mode():
        output = model.model.multi_modal_projector(features)
    assert float((output - output.mean((0, 1))).std()) == pytest.approx(1, abs=0.01)


def test_losses_are_finite_and_reach_every_part(
    lessons: list[Lesson], model: LlavaForConditionalGeneration
) -> None:
    batch = collate(lessons[:1], IMAGE_TOKEN)
    model.zero_grad()
    visual = visual_features(model, batch.pixels[:1])
    answers, focus, right = look_losses(model, batch.first, visual)
    (answers + focus).backward()  # type: ignore[no-untyped-call]
    assert 0 <= right <= 1
    reached = [model.model.vision_tower, model.model.multi_modal_projector, model.model.language_model]
    for part in reached:
        norms = [parameter.grad.norm() for parameter in part.parameters() if parameter.grad is not None]
        assert torch.isfinite(torch.stack(norms)).all()
        assert max(norms) > 0
    model.zero_grad()
