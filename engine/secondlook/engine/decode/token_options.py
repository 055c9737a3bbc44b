"""What a few answers want of their tokens beside the likeliest: what else was likely, or no end so soon."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from pydantic import Field

from secondlook.edge.validation import validated

__all__ = ["MOST_LIKELIEST", "ONLY_TOKENS", "Likeliest", "TokenOptions"]

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
