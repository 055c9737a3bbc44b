"""Sequences computed together are those computed alone, and those of transformers' `generate`."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from engine.checkpoints import GRID, IMAGE_SIZE, Variant, write_checkpoint
from secondlook.edge.geometry import Size
from secondlook.engine.decode.decoder import Decoder, Prompted
from secondlook.engine.decode.plans import PrefillPlan
from secondlook.engine.decode.record import Decoded
from secondlook.engine.models.base import Prompt
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.llava import Llava
from secondlook.engine.models.pictures import Picture
from secondlook.engine.models.prompts import GENERIC_QUESTION

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Ask:
    """A prompt with one or two pictures, named by the seeds they are drawn from."""

    question: str
    pictures: tuple[int, ...]
    limit: int


SHORT = Ask("What is it?", (1,), 3)
LONG = Ask("Write the number that is on the sign, and what else is written on the image of a sign.", (2,), 12)
TWO = Ask("What is the number on the sign?", (3, 4), 8)
ALSO = Ask("Is it a sign?", (1, 5), 5)
ASKS = (SHORT, LONG, TWO, ALSO)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("decoder"), Variant(seed=21, kv_heads=2))


@pytest.fixture(scope="module")
def adapter(folder: Path) -> Llava:
    return load_model(str(folder))


@pytest.fixture(scope="module")
def generated(folder: Path, adapter: Llava) -> dict[Ask, tuple[int, ...]]:
    """What `generate` answers."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return {ask: generate(model, adapter, ask) for ask in ASKS}


def generate(model: LlavaForConditionalGeneration, adapter: Llava, ask: Ask) -> tuple[int, ...]:
    ids = torch.tensor([prompt_of(adapter, ask).ids])
    found = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixel_values(adapter, ask),
        max_new_tokens=ask.limit,
        do_sample=False,
    )
    return tuple(found[0, ids.shape[1] :].tolist())


def pixel_values(adapter: Llava, ask: Ask) -> Tensor:
    return adapter.normalisation.on(adapter.device)(shown(adapter, ask))


def shown(adapter: Llava, ask: Ask) -> list[Picture]:
    size = Size(IMAGE_SIZE, IMAGE_SIZE)
    return [adapter.picture(picture(seed), adapter.global_view, size) for seed in ask.pictures]


def prompt_of(adapter: Llava, ask: Ask) -> Prompt:
    return adapter.prompt(adapter.tokens(ask.question), [(GRID, GRID)] * len(ask.pictures))


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)


def decoder_of(adapter: Llava, slots: int = 4, capacity: int = 192) -> Decoder:
    """A decoder whose cache holds garbage everywhere."""
    decoder = Decoder(adapter, slots, capacity, most_new_tokens=capacity, probe=adapter.probe())
    for tensor in (*decoder.cache.keys, *decoder.cache.values):
        tensor.fill_(math.nan)
    return decoder


def prompted(adapter: Llava, ask: Ask, slot: int, start: int = 0) -> Prompted:
    """The prompt's rows from `start`, which is 0 or the prefix's length."""
    prompt = prompt_of(adapter, ask)
    pictures = shown(adapter, ask)[start > 0 :]
    rows = adapter.rows(prompt, start, adapter.encode(pictures) if pictures else [])
    return Prompted(slot, start, rows, prompt.spans[0], prompt.delta, ask.limit)


def finish(decoder: Decoder, slots: list[int]) -> list[Decoded]:
    while not decoder.record.finished[slots].all():
        decoder.step(slots)
    return [decoder.record.read(slot) for slot in slots]


def alone(adapter: Llava, ask: Ask) -> Decoded:
    decoder = decoder_of(adapter, slots=1)
    decoder.prefill([prompted(adapter, ask, 0)])
    return finish(decoder, [0])[0]


def check(found: Decoded, adapter: Llava, ask: Ask, expected: tuple[int, ...]) -> None:
    """As `generate`'s, with the doubt that the sequence has when it is computed alone."""
    assert found.token_ids == expected
    for one, other in zip(found.statistics, alone(adapter, ask).statistics, strict=True):
        assert one.min_entropy == pytest.approx(other.min_entropy, rel=1e-4, abs=1e-5)
        assert one.shannon_entropy == pytest.approx(other.shannon_entropy, rel=1e-4, abs=1e-5)
        assert one.margin == pytest.approx(other.margin, rel=1e-4, abs=1e-5)


def state(decoder: Decoder) -> list[Tensor]:
    """Copies of all that the decoder holds of its sequences; garbage compares as equal."""
    tensors = [*decoder.cache.keys, *decoder.cache.values, decoder._lengths]
    return [tensor.nan_to_num(7.0).clone() for tensor in tensors]


@pytest.mark.parametrize("slots", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_sequences_of_any_length_together_are_generates(
    adapter: Llava, generated: dict[Ask, tuple[int, ...]], slots: list[int]
) -> None:
    decoder = decoder_of(adapter)
    decoder.prefill([prompted(adapter, ask, slot) for ask, slot in zip(ASKS, slots, strict=True)])
    for ask, found in zip(ASKS, finish(decoder, slots), strict=True):
        check(found, adapter, ask, generated[ask])


def test_a_sequence_joins_in_the_middle_and_others_leave(
    adapter: Llava, generated: dict[Ask, tuple[int, ...]]
) -> None:
    decoder = decoder_of(adapter, slots=3)
    decoder.prefill([prompted(adapter, SHORT, 2), prompted(adapter, LONG, 0)])
    decoder.step([2, 0])
    decoder.prefill([prompted(adapter, TWO, 1)])
    [short] = finish(decoder, [2])
    decoder.step([1])  # nobody must be in every step
    decoder.prefill([prompted(adapter, ALSO, 2)])  # in the slot of one that is done
    found = [short, *finish(decoder, [1, 2, 0])]
    for ask, answer in zip((SHORT, TWO, ALSO, LONG), found, strict=True):
        check(answer, adapter, ask, generated[ask])


def test_what_is_complete_stays_as_it_is(adapter: Llava, generated: dict[Ask, tuple[int, ...]]) -> None:
    decoder = decoder_of(adapter)
    decoder.prefill([prompted(adapter, SHORT, 0), prompted(adapter, LONG, 1)])
    [short] = finish(decoder, [0])
    length = int(decoder._lengths[0])
    valid = [tensor[0, :, :length].clone() for tensor in (*decoder.cache.keys, *decoder.cache.values)]
    _, longer = finish(decoder, [0, 1])
    for _ in range(3):
        decoder.step([0, 1])
    assert decoder.record.read(0) == short
    assert decoder.record.read(1) == longer
    assert longer.token_ids == generated[LONG]
    assert int(decoder._lengths[0]) == length
    for before, tensor in zip(valid, (*decoder.cache.keys, *decoder.cache.values), strict=True):
        assert torch.equal(before, tensor[0, :, :length])


def test_a_copied_prefix_is_continued(adapter: Llava, generated: dict[Ask, tuple[int, ...]]) -> None:
    decoder = decoder_of(adapter)
    start = generic_prompt(adapter).shared
    decoder.prefill([prompted(adapter, SHORT, 0)])
    finish(decoder, [0])
    decoder.cache.copy(0, 3, start)
    decoder.prefill([prompted(adapter, ALSO, 3, start), prompted(adapter, LONG, 1)])
    found = finish(decoder, [3, 1])
    for ask, answer in zip((ALSO, LONG), found, strict=True):
        check(answer, adapter, ask, generated[ask])
    assert decoder.record.read(0).token_ids == generated[SHORT]


def test_attention_rows_change_nothing(adapter: Llava, generated: dict[Ask, tuple[int, ...]]) -> None:
    decoder = decoder_of(adapter)
    decoder.prefill([prompted(adapter, LONG, 0), prompted(adapter, TWO, 2)])
    decoder.step([0, 2])
    before, answers = state(decoder), [decoder.record.read(slot) for slot in range(4)]
    start = generic_prompt(adapter).shared
    decoder.attention_rows([generic(adapter, 0, start), generic(adapter, 2, start)])
    assert all(torch.equal(old, new) for old, new in zip(before, state(decoder), strict=True))
    assert [decoder.record.read(slot) for slot in range(4)] == answers
    for ask, answer in zip((LONG, TWO), finish(decoder, [0, 2]), strict=True):
        check(answer, adapter, ask, generated[ask])


def generic(adapter: Llava, slot: int, start: int) -> Prompted:
    """The generic question behind an image that is in the slot."""
    prompt = generic_prompt(adapter)
    return Prompted(slot, start, adapter.rows(prompt, start, []), prompt.spans[0])


def generic_prompt(adapter: Llava) -> Prompt:
    return adapter.prompt(adapter.tokens(GENERIC_QUESTION), [(GRID, GRID)])


def test_attention_rows_run_no_layer_behind_the_probe(
    adapter: Llava, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = decoder_of(adapter)
    ran: Counter[int] = Counter()
    for name in ("attend", "attend_last"):
        own = getattr(PrefillPlan, name)

        def counted(plan: PrefillPlan, layer: int, *others: Any, call: Any = own) -> Any:
            ran.update([layer])
            return call(plan, layer, *others)

        monkeypatch.setattr(PrefillPlan, name, counted)
    decoder.prefill([prompted(adapter, SHORT, 0)], probe=True)
    whole = Counter(ran)
    ran.clear()
    decoder.attention_rows([generic(adapter, 0, generic_prompt(adapter).shared)])
    assert whole == Counter(range(adapter.decoder.layers))
    assert ran == Counter(range(adapter.localisation.deepest + 1))


def test_rows_equal_eager_attention(adapter: Llava, folder: Path) -> None:
    eager = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    first, last = generic_prompt(adapter).spans[0]

    def expected(ids: tuple[int, ...], ask: Ask) -> Tensor:
        inputs = torch.tensor([ids])
        pixels = pixel_values(adapter, ask)
        with torch.inference_mode():
            output = eager(input_ids=inputs, pixel_values=pixels, output_attentions=True)
        row: Tensor = output.attentions[adapter.localisation.deepest][0, :, -1, first:last].mean(0)
        return row

    decoder = decoder_of(adapter)
    prompts = [prompted(adapter, ask, slot) for slot, ask in enumerate((LONG, TWO))]
    rows = decoder.prefill(prompts, probe=True)
    decoder.step([0, 1])
    generics = decoder.attention_rows([generic(adapter, slot, last) for slot in (1, 0)])[::-1]
    for ask, row, generic_row in zip((LONG, TWO), rows, generics, strict=True):
        ids = prompt_of(adapter, ask).ids
        torch.testing.assert_close(row, expected(ids, ask), atol=1e-5, rtol=0)
        alone = Ask("", ask.pictures[:1], 1)
        found = expected(generic_prompt(adapter).ids, alone)
        torch.testing.assert_close(generic_row, found, atol=1e-5, rtol=0)
        assert row.std() > 1e-4  # not so even that any row would do


def test_without_a_probe_there_are_no_rows(adapter: Llava) -> None:
    assert decoder_of(adapter).prefill([prompted(adapter, SHORT, 0)]) == []


def test_an_answer_may_fill_its_slot_to_the_end(adapter: Llava, folder: Path) -> None:
    length = len(prompt_of(adapter, SHORT).ids)
    filling = Ask(SHORT.question, SHORT.pictures, 20)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    decoder = decoder_of(adapter, slots=2, capacity=length + filling.limit)
    decoder.prefill([prompted(adapter, filling, slot) for slot in range(2)])
    found = finish(decoder, [0, 1])
    for _ in range(3):
        decoder.step([0, 1])
    assert [answer.token_ids for answer in found] == [generate(model, adapter, filling)] * 2
    assert len(found[0].token_ids) == filling.limit  # no end token came before
    assert decoder._lengths[:2].max() < decoder.cache.capacity


def test_no_garbage_comes_into_an_answer(adapter: Llava, generated: dict[Ask, tuple[int, ...]]) -> None:
    """Not even of what is computed beside it: another sequence's NaN is its own."""
    decoder = decoder_of(adapter)
    poisoned = prompted(adapter, LONG, 1)
    nan = torch.full_like(poisoned.rows.embeddings, math.nan)
    poisoned = replace(poisoned, rows=replace(poisoned.rows, embeddings=nan))
    decoder.prefill([prompted(adapter, TWO, 0), poisoned, prompted(adapter, SHORT, 2)])
    found = finish(decoder, [0, 1, 2])
    check(found[0], adapter, TWO, generated[TWO])
    check(found[2], adapter, SHORT, generated[SHORT])
    assert all(math.isnan(token.min_entropy) for token in found[1].statistics)
    decoder.prefill([prompted(adapter, ALSO, 1)])  # where the NaN were
    check(finish(decoder, [1])[0], adapter, ALSO, generated[ALSO])


def test_progress_follows_the_answers(adapter: Llava) -> None:
    decoder = decoder_of(adapter)
    decoder.prefill([prompted(adapter, SHORT, 0)])
    decoder.progress.catch_up()
    assert decoder.progress.has(0, 1)
    assert not decoder.progress.has(0, 2)
    decoder.step([0])
    decoder.progress.catch_up()
    assert decoder.progress.has(0, 2)
    finish(decoder, [0])
    decoder.progress.catch_up()
    assert decoder.progress.has(0, 100)
    decoder.prefill([prompted(adapter, LONG, 0)])
    assert not decoder.progress.has(0, 1)  # what was known is of the answer before
    decoder.progress.catch_up()
    assert decoder.progress.has(0, 1)
    assert not decoder.progress.has(0, 2)


def test_steps_have_the_positions_of_lengths_and_deltas(
    adapter: Llava, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[int], list[int]]] = []
    positions: list[list[list[int]]] = []
    hidden = adapter.hidden

    def step_positions(lengths: Tensor, deltas: Tensor) -> Tensor:
        asked.append((lengths.tolist(), deltas.tolist()))
        return (lengths + deltas).unsqueeze(0)

    def noting(rows: Any, plan: Any) -> Tensor:
        positions.append(rows.positions.tolist())
        found: Tensor = hidden(rows, plan)
        return found

    monkeypatch.setattr(adapter, "step_positions", step_positions)
    monkeypatch.setattr(adapter, "hidden", noting)
    decoder = decoder_of(adapter)
    one, other = (
        replace(prompted(adapter, ask, slot), delta=delta)
        for ask, slot, delta in ((SHORT, 2, -7), (LONG, 0, 5))
    )
    decoder.prefill([one, other])
    positions.clear()
    decoder.step([2, 0])
    decoder.step([0, 2])
    a, b = len(one.rows), len(other.rows)
    assert asked == [([a, b], [-7, 5]), ([b + 1, a + 1], [5, -7])]
    assert positions == [[[a - 7, b + 5]], [[b + 6, a - 6]]]
    decoder.prefill([prompted(adapter, SHORT, 2)])  # a slot's next sequence has its own
    decoder.step([2])
    assert asked[-1] == ([a], [0])
