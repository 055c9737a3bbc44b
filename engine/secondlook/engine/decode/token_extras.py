"""The answers whose tokens are wanted with more than the likeliest, see `TokenOptions`, as they are decoded.

What they want needs the logits of a step on the host's side of a captured graph. So a step with such an
answer in it is not a graph's, and all others cost nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secondlook.engine.decode.token_options import Likeliest, TokenOptions

__all__ = ["TokenExtras"]


@dataclass
class _Answer:
    """One such answer: its options, and for each of its tokens the likeliest: ids [k] and ln p [k]."""

    options: TokenOptions
    likeliest: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


class TokenExtras:
    """The answers in slots that want something of the kind.

    Args:
        end_ids: tokens that end an answer.
    """

    def __init__(self, end_ids: Collection[int]) -> None:
        self._end_ids = sorted(end_ids)
        self._answers: dict[int, _Answer] = {}

    def begin(self, slot: int, options: TokenOptions) -> None:
        """A new answer in a slot."""
        self._answers.pop(slot, None)
        if options.of_logits:
            self._answers[slot] = _Answer(options)

    def among(self, slots: Sequence[int]) -> bool:
        """Whether an answer in one of these slots wants something."""
        return not self._answers.keys().isdisjoint(slots)

    def see(self, logits: Tensor, slots: Sequence[int], places: Sequence[int]) -> None:
        """What is wanted of logits [B, V], of the tokens at these places of the answers in slots; where an
        answer may not end yet, they are changed."""
        for row, (slot, place) in enumerate(zip(slots, places, strict=True)):
            answer = self._answers.get(slot)
            if answer is None:
                continue
            if place < answer.options.least:
                # Finite, so that p ln p is 0 there.
                ends = [token for token in self._end_ids if token < logits.shape[1]]
                logits[row, ends] = torch.finfo(logits.dtype).min
            if answer.options.likeliest:
                values, tokens = logits[row].float().log_softmax(0).topk(answer.options.likeliest)
                answer.likeliest[place] = tokens, values

    def read(self, slot: int, length: int) -> tuple[Likeliest, ...]:
        """For each of a slot's first tokens the likeliest; empty where that was not wanted. Waits."""
        answer = self._answers.get(slot)
        if answer is None or not answer.options.likeliest:
            return ()
        pairs = [answer.likeliest[place] for place in range(length)]
        return tuple(tuple(zip(tokens.tolist(), values.tolist(), strict=True)) for tokens, values in pairs)
