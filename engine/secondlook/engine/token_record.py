"""What was answered so far, on the device: tokens, the doubt about each, and which answers are complete."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from secondlook.engine.uncertainty import TokenStatistics
from secondlook.kernels import record_tokens

__all__ = ["Decoded", "TokenRecord"]


@dataclass(frozen=True)
class Decoded:
    """An answer's tokens, the end token included, and the doubt about each."""

    token_ids: tuple[int, ...]
    statistics: tuple[TokenStatistics, ...]


class TokenRecord:
    """Buffers for one answer each in S slots, written by `record_tokens`, which waits for nothing.

    Args:
        limits: the most tokens of each slot's answer.
        end_ids: tokens that end an answer.
        device: where the logits will be.

    Attributes:
        next_tokens: [S] int64, each slot's newest token.
    """

    def __init__(self, limits: list[int], end_ids: Collection[int], device: torch.device) -> None:
        count, capacity = len(limits), max(limits)
        self._end_ids = frozenset(end_ids)
        self._slots = torch.arange(count, device=device)
        self._end_tokens = torch.tensor(sorted(end_ids), dtype=torch.int64, device=device)
        self._limits = torch.tensor(limits, device=device)
        self._tokens = torch.zeros((count, capacity), dtype=torch.int64, device=device)
        self._measures = torch.zeros((count, capacity, 3), device=device)
        self._means = torch.zeros((count, 3), device=device)
        self._lengths = torch.zeros(count, dtype=torch.int64, device=device)
        self._finished = torch.zeros(count, dtype=torch.bool, device=device)
        self._arrivals = torch.zeros(count, dtype=torch.int32, device=device)
        self.next_tokens = torch.zeros(count, dtype=torch.int64, device=device)

    def append(self, logits: Tensor) -> None:
        """Choose every slot's next token from logits [S, V]; what is complete stays as it is."""
        record_tokens(
            logits,
            slots=self._slots,
            end_tokens=self._end_tokens,
            limits=self._limits,
            tokens=self._tokens,
            measures=self._measures,
            means=self._means,
            lengths=self._lengths,
            finished=self._finished,
            next_tokens=self.next_tokens,
            arrivals=self._arrivals,
        )

    def is_complete(self) -> bool:
        """Whether every slot's answer is complete. Waits for the device."""
        return bool(self._finished.all())

    def read(self, slot: int) -> Decoded:
        """A slot's answer so far. Waits for the device.

        The measures of tokens chosen from logits with NaN or infinity are NaN.
        """
        length = int(self._lengths[slot])
        tokens: list[int] = self._tokens[slot, :length].tolist()
        measures = self._measures[slot, :length].tolist()
        statistics = tuple(
            TokenStatistics(min_entropy, shannon_entropy, margin, token in self._end_ids)
            for token, (min_entropy, shannon_entropy, margin) in zip(tokens, measures, strict=True)
        )
        return Decoded(tuple(tokens), statistics)
