"""What a few answers want of their tokens beside the likeliest: what else was likely, or no end so soon.

Both need the logits of a step on the host's side of a captured graph. So a step with such an answer in it is
not a graph's, and all others cost nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from secondlook.edge.validation import validated

__all__ = ["MOST_LIKELIEST", "ONLY_TOKENS", "Likeliest", "TokenExtras", "TokenOptions"]

MOST_LIKELIEST: Final = 20
"""Tokens told at each place of an answer at most; as many as OpenAI's `top_logprobs` may ask for."""

Likeliest: TypeAlias = tuple[tuple[int, float], ...]
"""At one place of an answer the likeliest tokens, falling, each with ln p."""


@validated(frozen=True)
class TokenOptions:
    """What one answer wants of its tokens.

    Attributes:
        likeliest: so many of the likeliest tokens are told for each place.
        least: the answer has so many tokens at least: before, its end is no choice, and has no probability.
        bounded: its limit is but a bound: where there is no room for so many tokens, it has fewer.
    """

    likeliest: Annotated[int, Field(ge=0, le=MOST_LIKELIEST)] = 0
    least: Annotated[int, Field(ge=0)] = 0
    bounded: bool = False

    @property
    def of_logits(self) -> bool:
        """Whether anything is wanted of a step's logits."""
        return self.likeliest > 0 or self.least > 0


ONLY_TOKENS: Final = TokenOptions()
"""Nothing is wanted besides."""


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
