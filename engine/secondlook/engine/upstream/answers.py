"""An answer as an upstream writes it: its text, and the doubt about each of its tokens.

The chosen token is the likeliest, as the temperature is 0: its logprob is that of the maximum, so that the
min-entropy is exact; and the margin, by the second in the list. Of Shannon entropy the few likeliest tokens
give a lower bound alone: it is not known here, and said so (NaN).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import replace

from secondlook.engine.decode.token_options import Likeliest
from secondlook.engine.errors import UpstreamError
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.uncertainty import TokenStatistics
from secondlook.engine.results import Look
from secondlook.engine.upstream.chunks import Chunk, TokenLogprob, UsageTold

__all__ = ["FEWEST_LIKELIEST", "Vocabulary", "Written"]

FEWEST_LIKELIEST = 2
"""That are asked for: the margin needs the runner-up."""

_BY_ITSELF = "stop"
_SPACES = "▁Ġ \t\n"
"""Spaces, also as vocabularies write them; answers may be stripped of them."""

_BROKEN = "\ufffd"
"""A part of a character, whose text tells nothing."""


class Vocabulary:
    """Numbers of tokens, which an upstream tells as texts: given out as they come. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        self._texts: list[str] = []

    def number(self, text: str) -> int:
        with self._lock:
            number = self._numbers.setdefault(text, len(self._texts))
            if number == len(self._texts):
                self._texts.append(text)
            return number

    def texts(self, numbers: Sequence[int]) -> list[str]:
        """Of tokens whose numbers were given out."""
        return [self._texts[number] for number in numbers]


class Written:
    """One answer, as much as there is of it.

    Args:
        likeliest: so many of the likeliest tokens are told for each place.
        upstream: its name, for errors.
    """

    def __init__(self, vocabulary: Vocabulary, likeliest: int, upstream: str) -> None:
        self._vocabulary = vocabulary
        self._upstream = upstream
        self._most = likeliest
        self._statistics: list[TokenStatistics] = []
        self._ids: list[int] = []
        self._likeliest: list[Likeliest] = []
        self._usage = UsageTold()
        self._ended = False
        self._last = ""
        self.text = ""
        self.finished = False

    def __len__(self) -> int:
        """Tokens."""
        return len(self._ids)

    def add(self, chunk: Chunk) -> None:
        """
        Raises:
            UpstreamError: it has text without logprobs.
        """
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices[:1]:
            text, told = choice.delta.content or "", choice.logprobs
            tokens = [] if told is None else told.content or []
            if text and not tokens and told is None:
                raise UpstreamError(f"the upstream {self._upstream} gave no logprobs with its answer")
            self.text += text
            for token in tokens:
                self._token(token)
            if choice.finish_reason is not None:
                self.finished = True
                self._end(choice.finish_reason)

    def look(self, policy: Policy, most: int | None = None) -> Look:
        """The answer so far.

        Args:
            most: tokens that its doubt is of; None: all.

        Raises:
            UpstreamError: it is complete, and has no token.
        """
        tokens = tuple(self._statistics[:most])
        if not tokens:
            raise UpstreamError(f"the upstream {self._upstream} gave an answer without a token")
        details = self._usage.prompt_tokens_details
        return Look(
            self.text,
            tuple(self._ids[:most]),
            tokens,
            policy.uncertainty(tokens),
            self._usage.prompt_tokens,
            0 if details is None else details.image_tokens or 0,
            tuple(self._likeliest[:most]) if self._most else (),
            0 if details is None else details.cached_tokens or 0,
            self._ended and not tokens[-1].is_eos,
        )

    def _token(self, told: TokenLogprob) -> None:
        doubt = max(0.0, -told.logprob)
        ranked = sorted(told.top_logprobs or [], key=lambda other: -other.logprob)
        margin = math.nan
        if len(ranked) >= FEWEST_LIKELIEST:
            margin = 1 - (math.exp(-doubt) - math.exp(ranked[1].logprob))
        self._statistics.append(TokenStatistics(doubt, math.nan, margin, is_eos=False))
        self._ids.append(self._vocabulary.number(told.token))
        self._last = told.token
        number = self._vocabulary.number
        self._likeliest.append(tuple((number(other.token), other.logprob) for other in ranked[: self._most]))

    def _end(self, reason: str) -> None:
        """It is complete. Some servers tell the end token among the others: its text is not in the answer."""
        self._ended = reason == _BY_ITSELF
        bare = self._last.strip(_SPACES)
        shown = self.text.endswith(bare) if bare else bool(self._last)
        if self._ended and self._ids and not shown and _BROKEN not in bare:
            self._statistics[-1] = replace(self._statistics[-1], is_eos=True)
