"""Lessons: packing changes nothing for any question, and attention is taught where the sign is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from secondlook.benchmarks.signs.scene import COLOURS
from secondlook.engine.models.prompts import ChatPrompts
from secondlook.engine.models.qwen import patch_rows
from training.architectures import ARCHITECTURES
from training.closeups import IGNORED
from training.head import PatchHead
from training.lessons import Batch, Lesson, Lessons, Look, Packed, collate
from training.model import PATCH, Architecture, pixels_to_float
from training.square import Square, start_projector
from training.train import look_losses

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Kind:
    """An architecture with its tokenizer, and a model of it: untrained, its weights spread so far that what a
    token sees decides what it predicts."""

    architecture: Architecture
    tokenizer: Any
    image: int
    model: Any


@pytest.fixture(scope="module", params=ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def kind(request: pytest.FixtureRequest) -> Kind:
    architecture: Architecture = request.param
    tokenizer = architecture.tokenizer()
    model = architecture.build(tokenizer, seed=9)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.train(False)
    return Kind(architecture, tokenizer, model.config.image_token_id, model)


@pytest.fixture(scope="module")
def lessons(kind: Kind) -> list[Lesson]:
    return list(islice(Lessons(kind.architecture, kind.tokenizer, seed=21), 6))


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


def text_of(kind: Kind, ids: tuple[int, ...]) -> str:
    text = kind.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def packed_logits(kind: Kind, packed: Packed, pixels: list[Tensor], mask: Tensor) -> Tensor:
    """Logits [B, T, V] of packed rows, from the masks and positions that training uses."""
    language, architecture = kind.model.model.language_model, kind.architecture
    features = architecture.features(architecture.tower(kind.model), pixels)
    embeddings = language.embed_tokens(packed.ids)
    output = language(
        inputs_embeds=embeddings.masked_scatter(
            packed.seen[..., None], architecture.visual(kind.model, features)
        ),
        attention_mask=torch.zeros(mask.shape).masked_fill(~mask, float("-inf")),
        position_ids=packed.positions if len(packed.positions) > 1 else packed.positions[0],
        use_cache=False,
    )
    logits: Tensor = kind.model.lm_head(output.last_hidden_state)
    return logits


def alone(kind: Kind, asked: Asked, pixels: tuple[Tensor, ...]) -> Tensor:
    """Logits of the answer's tokens by the model's own forward pass over the plain prompt."""
    ids = torch.tensor([[*asked.prompt, *asked.answer[:-1]]])
    values = [pixels_to_float(picture) for picture in pixels]
    inputs: dict[str, Tensor] = {}
    if isinstance(kind.architecture, Square):
        inputs["pixel_values"] = torch.stack(values)
    else:
        inputs["pixel_values"] = torch.cat([patch_rows(picture, PATCH, 1, 2) for picture in values])
        grids = [(1, picture.shape[1] // PATCH, picture.shape[2] // PATCH) for picture in pixels]
        inputs["image_grid_thw"] = torch.tensor(grids)
        inputs["mm_token_type_ids"] = (ids == kind.image).int()
    logits: Tensor = kind.model(input_ids=ids, use_cache=False, **inputs).logits
    return logits[0, -len(asked.answer) :]


def split(lessons: list[Lesson], batch: Batch, pictures: int) -> tuple[Packed, list[Look], list[Tensor]]:
    """One kind of look of a batch: as packed, as it was, and the pictures of all rows, row by row."""
    rows = len(batch.first.ids if pictures == 1 else batch.second.ids)
    packed = batch.first if pictures == 1 else batch.second
    looks = [lesson.first if pictures == 1 else lesson.second for lesson in lessons[:rows]]
    pixels = [picture for lesson in lessons[:rows] for picture in lesson.pixels[:pictures]]
    return packed, looks, pixels


@pytest.mark.parametrize("pictures", [1, 2])
def test_a_packed_question_sees_what_it_would_alone(lessons: list[Lesson], kind: Kind, pictures: int) -> None:
    few = lessons[:3]
    packed, looks, pixels = split(few, collate(few, kind.image), pictures)
    compared = careless_error = 0.0
    with torch.inference_mode():
        logits = packed_logits(kind, packed, pixels, packed.mask)
        everything = torch.ones_like(packed.mask[0]).tril().expand_as(packed.mask)
        careless = packed_logits(kind, packed, pixels, everything)
        for row, look in enumerate(looks):
            for number, asked in enumerate(taken_apart(look)):
                places = list(asked.places[-len(asked.answer) :])
                expected = alone(kind, asked, few[row].pixels[:pictures])
                torch.testing.assert_close(logits[row, places], expected, atol=1e-4, rtol=1e-4)
                if number:
                    error = float((careless[row, places] - expected).abs().max())
                    careless_error = max(careless_error, error)
                compared += 1
    assert compared >= 2 * len(looks) > 2
    assert careless_error > 0.01, "questions that saw one another would not have been noticed"


def cells_of(pixels: tuple[Tensor, ...]) -> list[int]:
    return [picture[0].numel() // PATCH**2 for picture in pixels]


def test_a_packed_question_is_the_prompt_that_the_server_builds(lessons: list[Lesson], kind: Kind) -> None:
    template = kind.architecture.chat_template
    prompts = ChatPrompts(kind.tokenizer, chat_template=template, placeholder=kind.image)
    for lesson in lessons:
        for look, pictures in ((lesson.first, 1), (lesson.second, 2)):
            for asked in taken_apart(look):
                own = text_of(kind, asked.prompt[len(head_of(look)) :])
                question = prompts.tokens(own.removeprefix("\n").removesuffix(" ASSISTANT:"))
                assert asked.prompt == prompts.ids(question, cells_of(lesson.pixels[:pictures]))[0]


def test_answers_are_what_is_learnt_and_end(lessons: list[Lesson], kind: Kind) -> None:
    kinds = set()
    for look, _ in looks_of(lessons):
        for asked in taken_apart(look):
            assert asked.answer[-1] == kind.tokenizer.eos_token_id
            answer, prompt = text_of(kind, asked.answer[:-1]), text_of(kind, asked.prompt)
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
    for lesson in lessons:
        for look, pictures in ((lesson.first, 1), (lesson.second, 2)):
            assert len(look.probes) == len(look.targets) == len(look.cues) > 0
            for target in look.targets:
                assert target.shape == (sum(cells_of(lesson.pixels[:pictures])),)
                assert target.dtype == np.float32
                assert target.min() >= 0
                assert target.sum() == pytest.approx(1, abs=1e-5)


def test_cues_are_the_asked_colour_and_probes_predict_the_answer(lessons: list[Lesson], kind: Kind) -> None:
    colours = {f" {colour}" for colour in COLOURS}
    for look, _ in looks_of(lessons):
        for probe, cue in zip(look.probes, look.cues, strict=True):
            assert look.labels[probe] != IGNORED
            if cue >= 0:
                assert look.segments[cue] == look.segments[probe]
                assert text_of(kind, (look.ids[cue],)) in colours
            else:
                answer = next(a for a in taken_apart(look) if probe in a.places).answer
                assert text_of(kind, answer).startswith("signs in ")


def test_attention_is_taught_where_the_patches_show_the_asked_colour(
    lessons: list[Lesson], kind: Kind
) -> None:
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
                wanted = labels[text_of(kind, (look.ids[cue],))]
                parts = np.split(target, cells_of(lesson.pixels[:1])[: pictures - 1])
                for part, weights in enumerate(parts):
                    if weights.max() == 0:
                        continue  # the region does not show this sign
                    shown = int(lesson.patches[part][0].flatten()[int(weights.argmax())])
                    assert shown != 0
                    peaked += shown == wanted
                    total += 1
    assert total > 20
    assert peaked / total > 0.9, "only a patch shared by two signs may have the other's colour"
    assert even > 0


def test_pictures_and_patches_have_the_models_size(lessons: list[Lesson], kind: Kind) -> None:
    shapes = set()
    for lesson in lessons:
        for pixels, patches in zip(lesson.pixels, lesson.patches, strict=True):
            rows, columns = patches.shape[1:]
            assert pixels.shape == (3, rows * PATCH, columns * PATCH)
            assert pixels.dtype == torch.uint8
            assert len(patches) == 4
            assert 120 < rows * columns <= 156
            shapes.add((rows, columns))
    assert (len(shapes) == 1) == isinstance(kind.architecture, Square)


def test_lessons_are_a_function_of_the_seed(lessons: list[Lesson], kind: Kind) -> None:
    streams = (Lessons(kind.architecture, kind.tokenizer, seed) for seed in (21, 22))
    again, other = (next(iter(stream)) for stream in streams)
    assert all(map(torch.equal, again.pixels, lessons[0].pixels))
    assert again.first.ids == lessons[0].first.ids
    assert again.second.labels == lessons[0].second.labels
    assert not torch.equal(other.pixels[0], again.pixels[0])


def test_padding_changes_no_row_and_sees_no_picture(lessons: list[Lesson], kind: Kind) -> None:
    batch = collate(lessons, kind.image)
    assert len(batch.first.ids) == len(lessons)
    assert len(batch.pixels) == len(batch.first.ids) + len(batch.second.ids)
    assert batch.patches.shape[1] == sum(cells_of(tuple(batch.pixels)))
    for pictures in (1, 2):
        packed, looks, _ = split(lessons, batch, pictures)
        assert packed.mask.any(-1).all(), "a token that sees nothing would be NaN"
        for row, look in enumerate(looks):
            length = len(look.ids)
            assert packed.ids[row, :length].tolist() == look.ids
            assert torch.equal(packed.positions[:, row, :length], look.positions)
            assert packed.labels[row, :length].tolist() == look.labels
            assert (packed.labels[row, length:] == IGNORED).all()
            assert not packed.mask[row, 0, length:, :length].any()
            assert not packed.mask[row, 0, :length, length:].any()
            places = [place for place, token in enumerate(look.ids) if token == kind.image]
            assert packed.images[row, : len(places)].tolist() == places
            assert packed.seen[row].nonzero().flatten().tolist() == places
        assert len(packed.probes) == len(packed.targets) == sum(len(look.probes) for look in looks)


def test_pictures_come_before_their_details(lessons: list[Lesson], kind: Kind) -> None:
    batch = collate(lessons, kind.image)
    twice = len(batch.second.ids)
    order = [(lesson, 0) for lesson in lessons] + [(lesson, 1) for lesson in lessons[:twice]]
    labels = batch.patches.split(cells_of(tuple(batch.pixels)), dim=1)
    for row, (lesson, part) in enumerate(order):
        assert torch.equal(batch.pixels[row], lesson.pixels[part])
        assert torch.equal(labels[row], lesson.patches[part].flatten(1))


def test_the_projector_starts_with_standard_outputs() -> None:
    architecture = Square()
    model = architecture.build(architecture.tokenizer(), seed=2)
    features = torch.randn(600, 192, generator=torch.Generator().manual_seed(1)) * 3 + 5
    start_projector(model.model.multi_modal_projector, PatchHead(192), features)
    with torch.inference_mode():
        output = model.model.multi_modal_projector(features)
    assert float((output - output.mean(0)).std()) == pytest.approx(1, abs=0.01)


def test_losses_are_finite_and_reach_every_part(lessons: list[Lesson], kind: Kind) -> None:
    batch, architecture, model = collate(lessons[:1], kind.image), kind.architecture, kind.model
    model.zero_grad()
    visual = architecture.visual(model, architecture.features(architecture.tower(model), batch.pixels[:1]))
    answers, focus, right = look_losses(model, batch.first, visual)
    (answers + focus).backward()  # type: ignore[no-untyped-call]
    assert 0 <= right <= 1
    for part in model.model.children():
        norms = [parameter.grad.norm() for parameter in part.parameters() if parameter.grad is not None]
        assert torch.isfinite(torch.stack(norms)).all()
        assert max(norms) > 0
    model.zero_grad()
