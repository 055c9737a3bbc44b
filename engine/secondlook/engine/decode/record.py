"""What was answered so far, on the device: tokens, the doubt about each, and which answers are complete."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secondlook.engine.decode.token_extras import TokenExtras
from secondlook.engine.decode.token_options import ONLY_TOKENS, Likeliest, TokenOptions
from secondlook.engine.method.uncertainty import TokenStatistics
from secondlook.kernels import record_tokens

__all__ = ["Decoded", "Progress", "TokenRecord"]


@dataclass(frozen=True)
class Decoded:
    """An answer's tokens, the end token included, the doubt about each, and the likeliest, if asked for."""

    token_ids: tuple[int, ...]
    statistics: tuple[TokenStatistics, ...]
    likeliest: tuple[Likeliest, ...] = ()


class TokenRecord:
    """Buffers for one answer in each of S slots, written by `record_tokens`, which waits for nothing.

    Args:
        slots: S.
        capacity: the most tokens of an answer.
        end_ids: tokens that end an answer.
        device: where the logits will be.

    Attributes:
        finished: [S] bool: whether a slot's answer is complete, or it has none.
        lengths: [S] int64, tokens of each slot's answer.
        extras: what answers want of their tokens besides.
    """

    def __init__(self, slots: int, capacity: int, end_ids: Collection[int], device: torch.device) -> None:
        self.capacity = capacity
        self._end_ids = frozenset(end_ids)
        self._end_tokens = torch.tensor(sorted(end_ids), dtype=torch.int64, device=device)
        self._limits = torch.zeros(slots, dtype=torch.int64, device=device)
        self._tokens = torch.zeros((slots, capacity), dtype=torch.int64, device=device)
        self._measures = torch.zeros((slots, capacity, 3), device=device)
        self._means = torch.zeros((slots, 3), device=device)
        self._arrivals = torch.zeros(2 * slots, dtype=torch.int32, device=device)  # padding rows count too
        self.lengths = torch.zeros(slots, dtype=torch.int64, device=device)
        self.finished = torch.ones(slots, dtype=torch.bool, device=device)
        self.extras = TokenExtras(end_ids)
        cuda: Any = torch.cuda  # its streams are untyped
        self._reading = cuda.Stream(device) if device.type == "cuda" else None

    def begin(self, slot: int, limit: int, options: TokenOptions = ONLY_TOKENS) -> None:
        """A new answer of at most `limit` tokens in a slot."""
        assert 1 <= limit <= self.capacity, "the engine bounds the tokens asked for"
        self._limits[slot] = limit
        self.lengths[slot] = 0
        self._means[slot] = 0
        self.finished[slot] = False
        self.extras.begin(slot, options)

    def append(self, logits: Tensor, slots: Tensor) -> None:
        """Choose the next token of every row from logits [B, V], in slots [B] int64; -1 is padding.

        What is complete stays as it is.
        """
        record_tokens(
            logits,
            slots=slots,
            end_tokens=self._end_tokens,
            limits=self._limits,
            tokens=self._tokens,
            measures=self._measures,
            means=self._means,
            lengths=self.lengths,
            finished=self.finished,
            next_tokens=torch.empty_like(slots),
            arrivals=self._arrivals[: len(slots)],
        )

    def newest(self, slots: Tensor) -> Tensor:
        """[B] int64: each slot's newest token; what it is for padding does not matter."""
        return self._tokens[slots, self.lengths[slots] - 1]

    def read(self, slot: int, most: int | None = None) -> Decoded:
        """A slot's answer so far, or its first tokens, once they are known to be there (`Progress`).

        On a GPU this does not wait for what was begun since.

        The measures of tokens chosen from logits with NaN or infinity are NaN.
        """
        with nullcontext() if self._reading is None else torch.cuda.stream(self._reading):
            length = int(self.lengths[slot])
            length = length if most is None else min(length, most)
            tokens: list[int] = self._tokens[slot, :length].tolist()
            measures = self._measures[slot, :length].tolist()
            likeliest = self.extras.read(slot, length)
        statistics = tuple(
            TokenStatistics(min_entropy, shannon_entropy, margin, token in self._end_ids)
            for token, (min_entropy, shannon_entropy, margin) in zip(tokens, measures, strict=True)
        )
        return Decoded(tuple(tokens), statistics, likeliest)


class Progress:
    """How far each answer is, known on the host: on a GPU as it was a step ago, so that nothing waits.

    Args:
        record: the answers.
    """

    def __init__(self, record: TokenRecord) -> None:
        count = len(record.lengths)
        self._record = record
        self._noted, self._known = 0, 0
        self._from = [0] * count  # the note from which a slot's values are those of its present answer
        self._lengths, self._finished = [0] * count, [True] * count
        self._begun = [0] * count
        self._late = record.lengths.device.type == "cuda"
        self._notes = [_Note(count) for _ in range(2)] if self._late else []

    def begin(self, slot: int) -> None:
        """A new answer begins in a slot; the next note is the first that knows it."""
        self._from[slot] = self._noted + 1
        self._begun[slot] = 0

    def note(self, slots: Iterable[int]) -> None:
        """A token more was begun in these slots; take down how far all are, once the device is that far."""
        for slot in slots:
            self._begun[slot] += 1
        self._noted += 1
        if self._late:
            self._notes[self._noted % 2].take(self._record)

    def catch_up(self, *, wait: bool = False) -> None:
        """Read the latest note; on a GPU, unless it is to be waited for, the one before it, which the device
        is soon done with."""
        if self._late:
            latest = self._noted if wait else self._noted - 1
            if latest > self._known:
                self._known = latest
                self._lengths, self._finished = self._notes[latest % 2].read()
        else:
            self._known = self._noted
            self._lengths, self._finished = self._record.lengths.tolist(), self._record.finished.tolist()

    def known(self, slot: int) -> int:
        """Tokens that a slot's answer is known to have."""
        return self._lengths[slot] if self._known >= self._from[slot] else 0

    def begun(self, slot: int) -> int:
        """Tokens of a slot's answer that are computed or being computed, if it did not end before."""
        return self._begun[slot]

    def has(self, slot: int, tokens: int) -> bool:
        """Whether a slot's answer is known to have so many tokens, or to be complete."""
        known = self._known >= self._from[slot]
        return known and (self._finished[slot] or self._lengths[slot] >= tokens)


class _Note:
    """A copy in pinned memory, and the event after it."""

    def __init__(self, count: int) -> None:
        self._lengths = torch.zeros(count, dtype=torch.int64, pin_memory=True)
        self._finished = torch.zeros(count, dtype=torch.bool, pin_memory=True)
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # untyped in torch

    def take(self, record: TokenRecord) -> None:
        self._lengths.copy_(record.lengths, non_blocking=True)
        self._finished.copy_(record.finished, non_blocking=True)
        self._event.record()

    def read(self) -> tuple[list[int], list[bool]]:
        self._event.synchronize()
        return self._lengths.tolist(), self._finished.tolist()
