"""Answers recorded on the device, read back, and how far they are known to be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from secondlook.engine.decode.record import Progress, TokenRecord

END = 3
CPU = torch.device("cpu")


def choosing(*tokens: int) -> Tensor:
    """Logits [B, 4] of which each row's most likely token is the one given, with probability 5 / 8."""
    probabilities = torch.full((len(tokens), 4), 1 / 8)
    probabilities[torch.arange(len(tokens)), torch.tensor(tokens)] = 5 / 8
    return probabilities.log()


def record_of(*limits: int, end_ids: tuple[int, ...] = (END,), capacity: int = 8) -> TokenRecord:
    """An answer begun in each slot, with that limit."""
    record = TokenRecord(len(limits), capacity, end_ids, CPU)
    for slot, limit in enumerate(limits):
        record.begin(slot, limit)
    return record


def append(record: TokenRecord, tokens: dict[int, int]) -> None:
    """Choose a token for each slot named."""
    record.append(choosing(*tokens.values()), torch.tensor(list(tokens)))


def test_before_any_answer_every_slot_is_done() -> None:
    record = TokenRecord(3, 8, {END}, CPU)
    assert record.finished.tolist() == [True] * 3
    assert record.read(1).token_ids == ()


def test_slots_end_with_an_end_token_or_their_limit() -> None:
    record = record_of(5, 2)
    for tokens in ({0: 1, 1: 2}, {0: 0, 1: 1}):
        assert record.finished.tolist() == [False, False]
        append(record, tokens)
        assert record.newest(torch.tensor([0, 1])).tolist() == list(tokens.values())
    assert record.finished.tolist() == [False, True]
    append(record, {0: END, 1: 2})
    assert record.finished.tolist() == [True, True]
    append(record, {0: 0, 1: 0})  # complete: nothing changes
    assert record.read(0).token_ids == (1, 0, END)
    assert record.read(1).token_ids == (2, 1)
    assert record.lengths.tolist() == [3, 2]


def test_only_the_slots_given_get_a_token() -> None:
    record = record_of(4, 4, 4)
    append(record, {2: 1, 0: 2})
    append(record, {0: 0})
    assert [record.read(slot).token_ids for slot in range(3)] == [(2, 0), (), (1,)]
    assert record.newest(torch.tensor([2, 0])).tolist() == [1, 0]


def test_rows_of_padding_are_nobodys() -> None:
    record = record_of(4, 4)
    append(record, {1: 1, -1: 2})
    record.append(choosing(2, 2), torch.tensor([-1, -1]))
    assert [record.read(slot).token_ids for slot in range(2)] == [(), (1,)]
    assert record.finished.tolist() == [False, False]


def test_a_new_answer_begins_as_if_there_had_been_none() -> None:
    record = record_of(3, 3)
    append(record, {0: 1, 1: 2})
    append(record, {0: END, 1: 0})
    record.begin(0, 2)
    assert record.read(0).token_ids == ()
    append(record, {0: 2, 1: 1})
    append(record, {0: 0})
    fresh = record_of(2)
    append(fresh, {0: 2})
    append(fresh, {0: 0})
    assert record.read(0) == fresh.read(0)
    assert record.read(1).token_ids == (2, 0, 1)
    assert record.finished.tolist() == [True, True]


@pytest.mark.parametrize("limit", [0, 9])
def test_limits_beyond_the_buffers_are_our_own_mistake(limit: int) -> None:
    with pytest.raises(AssertionError, match="the engine bounds"):
        record_of(limit, capacity=8)


def test_every_token_has_its_doubt() -> None:
    record = record_of(2)
    append(record, {0: 1})
    append(record, {0: END})
    first, last = record.read(0).statistics
    assert (first.is_eos, last.is_eos) == (False, True)
    assert first.min_entropy == pytest.approx(-math.log(5 / 8), rel=1e-6)
    entropy = -5 / 8 * math.log(5 / 8) - 3 / 8 * math.log(1 / 8)
    assert first.shannon_entropy == pytest.approx(entropy, rel=1e-6)
    assert first.margin == pytest.approx(1 / 2, rel=1e-6)


def test_an_answer_in_progress_can_be_read() -> None:
    record = record_of(3)
    assert record.read(0).token_ids == ()
    append(record, {0: 2})
    assert record.read(0).token_ids == (2,)


@pytest.mark.parametrize(
    ("most", "tokens"), [(0, ()), (1, (2,)), (2, (2, 1)), (7, (2, 1, 0)), (None, (2, 1, 0))]
)
def test_an_answers_first_tokens_can_be_read(most: int | None, tokens: tuple[int, ...]) -> None:
    record = record_of(3)
    for token in (2, 1, 0):
        append(record, {0: token})
    found = record.read(0, most)
    assert found.token_ids == tokens
    assert found.statistics == record.read(0).statistics[: len(tokens)]


def test_each_of_several_end_tokens_ends() -> None:
    record = record_of(5, 5, 5, end_ids=(END, 1))
    append(record, {0: 1, 1: END, 2: 2})
    assert record.finished.tolist() == [True, True, False]
    assert [record.read(slot).statistics[0].is_eos for slot in range(3)] == [True, True, False]


def test_without_end_tokens_the_limit_ends_the_answer() -> None:
    record = record_of(1, end_ids=())
    append(record, {0: END})
    assert record.finished.tolist() == [True]
    assert not record.read(0).statistics[0].is_eos


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_kept_for_the_reader(value: float) -> None:
    record = record_of(2, 2)
    record.append(torch.tensor([[0.0, value], [0.0, 1.0]]), torch.tensor([0, 1]))
    assert math.isnan(record.read(0).statistics[0].min_entropy)
    assert math.isfinite(record.read(1).statistics[0].min_entropy)


def test_progress_is_known_once_it_was_noted() -> None:
    record = TokenRecord(2, 8, {END}, CPU)
    progress = Progress(record)
    record.begin(0, 3)
    progress.begin(0)
    progress.catch_up()
    assert not progress.has(0, 1)  # the slot's former state is not the new answer's
    for tokens in (1, 2):
        append(record, {0: 1})
        progress.note([0])
        progress.catch_up()
        assert progress.begun(0) == tokens
        assert progress.has(0, tokens)
        assert not progress.has(0, tokens + 1)
    append(record, {0: END})
    progress.note([0])
    progress.catch_up()
    assert progress.has(0, 100)  # complete: there will not be more


def test_a_new_answers_progress_is_not_its_predecessors() -> None:
    record = record_of(1, 5)
    progress = Progress(record)
    for slot in (0, 1):
        progress.begin(slot)
    append(record, {0: 1, 1: 1})
    progress.note([0, 1])
    progress.catch_up()
    assert progress.has(0, 5)
    record.begin(0, 4)
    progress.begin(0)
    assert not progress.has(0, 1)
    assert progress.has(1, 1)
    assert (progress.begun(0), progress.begun(1)) == (0, 1)
    append(record, {0: 2})
    progress.note([0])
    progress.catch_up()
    assert progress.has(0, 1)
    assert not progress.has(0, 2)
