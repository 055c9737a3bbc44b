"""From the tokens that were decoded to an answer with its doubt; also of one that is still being decoded."""

from __future__ import annotations

import math
from collections.abc import Callable

from secondlook.engine.decode.record import Decoded
from secondlook.engine.errors import NonFiniteError
from secondlook.engine.method.policy import Policy
from secondlook.engine.models.base import Prompt, VisionLanguageModel
from secondlook.engine.results import Look

__all__ = ["Answers"]


class Answers:
    """Makes answers of one model's tokens."""

    def __init__(self, model: VisionLanguageModel) -> None:
        self._model = model

    def look(self, decoded: Decoded, prompt: Prompt, policy: Policy, cached: int) -> Look:
        """
        Args:
            cached: rows of the prompt that were there before.

        Raises:
            NonFiniteError: the model computed NaN or infinity.
        """
        statistics = decoded.statistics
        if not _finite(decoded):
            dtype = str(self._model.dtype).removeprefix("torch.")
            raise NonFiniteError(
                f"the model {self._model.name!r} computed NaN or infinity in {dtype}; "
                + ("its weights or its settings are damaged" if dtype == "float32" else "try dtype float32")
            )
        return Look(
            self._model.text(decoded.token_ids),
            decoded.token_ids,
            statistics,
            policy.uncertainty(statistics),
            len(prompt.ids),
            prompt.visual_tokens,
            decoded.likeliest,
            cached,
        )

    def shown(
        self, prompt: Prompt, policy: Policy, cached: int, on_tokens: Callable[[Look], None] | None
    ) -> Callable[[Decoded], None] | None:
        """What tells an answer that is being decoded, each time that it is longer."""
        if on_tokens is None:
            return None
        told = 0

        def seen(decoded: Decoded) -> None:
            nonlocal told
            # Of other numbers the look itself tells, in the end.
            if len(decoded.token_ids) > told and _finite(decoded):
                told = len(decoded.token_ids)
                on_tokens(self.look(decoded, prompt, policy, cached))

        return seen


def _finite(decoded: Decoded) -> bool:
    return all(math.isfinite(token.min_entropy) for token in decoded.statistics)
