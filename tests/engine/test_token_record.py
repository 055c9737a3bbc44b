"""Answers recorded on the device, read back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from secondlook.engine.token_record import TokenRecord

END = 3
CPU = torch.device("cpu")


def choosing(*tokens: int) -> Tensor:
    """Logits [S, 4] of which each row's most likely token is the one given, with probability 5 / 8."""
    probabilities = torch.full((len(tokens), 4), 1 / 8)
    probabilities[torch.arange(len(tokens)), torch.tensor(tokens)] = 5 / 8
    return probabilities.log()


def test_slots_end_with_an_end_token_or_their_limit() -> None:
    record = TokenRecord([5, 2], {END}, CPU)
    for tokens in ([1, 2], [0, 1]):
        assert not record.is_complete()
        record.append(choosing(*tokens))
        assert record.next_tokens.tolist() == tokens
    record.append(choosing(END, 2))
    assert record.is_complete()
    record.append(choosing(0, 0))  # complete: nothing changes
    assert record.read(0).token_ids == (1, 0, END)
    assert record.read(1).token_ids == (2, 1)


def test_every_token_has_its_doubt() -> None:
    record = TokenRecord([2], {END}, CPU)
    record.append(choosing(1))
    record.append(choosing(END))
    first, last = record.read(0).statistics
    assert (first.is_eos, last.is_eos) == (False, True)
    assert first.min_entropy == pytest.approx(-math.log(5 / 8), rel=1e-6)
    entropy = -5 / 8 * math.log(5 / 8) - 3 / 8 * math.log(1 / 8)
    assert first.shannon_entropy == pytest.approx(entropy, rel=1e-6)
    assert first.margin == pytest.approx(1 / 2, rel=1e-6)


def test_an_answer_in_progress_can_be_read() -> None:
    record = TokenRecord([3], {END}, CPU)
    assert record.read(0).token_ids == ()
    record.append(choosing(2))
    assert record.read(0).token_ids == (2,)


def test_without_end_tokens_the_limit_ends_the_answer() -> None:
    record = TokenRecord([1], (), CPU)
    record.append(choosing(END))
    assert record.is_complete()
    assert not record.read(0).statistics[0].is_eos


def test_nan_is_kept_for_the_reader() -> None:
    record = TokenRecord([1], {END}, CPU)
    record.append(torch.tensor([[0.0, math.nan]]))
    assert math.isnan(record.read(0).statistics[0].min_entropy)
