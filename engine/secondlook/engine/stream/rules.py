"""Rules for what stands: of a frame's own answer and the earlier ones, which to give. Pure arithmetic.

`Belief` is the one to use. `Newest` is the plain switch, and what others are compared with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field, NonNegativeFloat

from secondlook.edge.validation import validated
from secondlook.engine.stream.history import Entry

__all__ = ["Belief", "Newest", "Rule", "Standing"]

_LEAST: float = 1e-12
"""Chance that is left to what was never said, against division by zero."""


@dataclass(frozen=True)
class Standing:
    """The answer that stands.

    Attributes:
        entry: the newest answer with its text.
        chance: that it is right now.
    """

    entry: Entry
    chance: float


class Rule(Protocol):
    """How answers are weighed."""

    def counts(self, entry: Entry) -> bool:
        """Whether an answer tells anything, and is worth remembering."""
        ...

    def standing(self, earlier: Sequence[Entry], own: Entry | None, captured: float) -> Standing | None:
        """What stands at a frame.

        Args:
            earlier: answers that count, to frames before it, in the order of the frames.
            own: the small model's answer to it; None: there is none.
            captured: the frame's time.
        """
        ...


@validated(frozen=True)
class Belief:
    """What is most likely right, by a hidden Markov model (Rabiner, "A tutorial on hidden Markov models",
    Proceedings of the IEEE 77(2), 1989, the forward algorithm).

    The right answer changes now and then, to any other. What a model says in doubt u is right with the chance
    exp(-`sharpness` u); else it is any of `others`. The answers known at a frame, each as of its own frame,
    so give each text a chance. Doubt u is a mean of -log p over an answer's tokens, so that this is a power
    of the model's own chance for them. The defaults were chosen on drawn streams of the calibration split.

    Attributes:
        change: times a second that the right answer changes.
        others: answers that a wrong one may be.
    """

    change: Annotated[float, Field(gt=0)] = 0.1
    sharpness: Annotated[float, Field(gt=0)] = 10.0
    others: Annotated[float, Field(gt=1)] = 100.0

    def counts(self, entry: Entry) -> bool:
        """Whether it is right more often than any text would be by chance."""
        return bool(entry.text.strip()) and self._right(entry.uncertainty) > 1 / self.others

    def standing(self, earlier: Sequence[Entry], own: Entry | None, captured: float) -> Standing | None:
        said = [*earlier, own] if own is not None and self.counts(own) else list(earlier)
        if not said:
            return None if own is None else Standing(own, self._right(own.uncertainty))
        chances: dict[str, float] = {}
        newest: dict[str, Entry] = {}
        time = said[0].captured
        for entry in said:
            self._pass(chances, entry.captured - time)
            time = entry.captured
            self._hear(chances, entry)
            newest[entry.text] = entry
        self._pass(chances, captured - time)
        text = max(chances, key=lambda each: (chances[each], newest[each].rank))
        return Standing(newest[text], chances[text])

    def _right(self, doubt: float) -> float:
        """Never certain: two answers of no doubt may differ."""
        return (1 - 1 / self.others) * math.exp(-self.sharpness * doubt)

    def _pass(self, chances: dict[str, float], seconds: float) -> None:
        """Time passes: the right answer may change to any other."""
        if not seconds:
            return
        stays = math.exp(-self.change * seconds)
        comes = (1 - stays) / self.others
        for text, chance in chances.items():
            chances[text] = stays * chance + comes

    def _hear(self, chances: dict[str, float], entry: Entry) -> None:
        """An answer is heard; what nobody has said shares what is left."""
        rest = max(_LEAST, 1 - sum(chances.values()))
        if entry.text not in chances:
            chances[entry.text] = rest / max(1.0, self.others - len(chances))
            rest -= chances[entry.text]
        right = self._right(entry.uncertainty)
        wrong = (1 - right) / self.others
        total = (1 - rest) * wrong + chances[entry.text] * right + rest * wrong
        for text, chance in chances.items():
            chances[text] = chance * wrong / total
        chances[entry.text] *= (right + wrong) / wrong


@validated(frozen=True)
class Newest:
    """The small model's own answer where it is sure, else the newest sure one.

    Attributes:
        sure: doubt in nats up to which its own stands for its frame.
        own, cloud: doubt up to which answers count for later frames; None: all of the cloud's.
    """

    sure: NonNegativeFloat = 0.1
    own: NonNegativeFloat = 0.02
    cloud: NonNegativeFloat | None = 0.2

    def counts(self, entry: Entry) -> bool:
        limit = self.cloud if entry.by == "cloud" else self.own
        return bool(entry.text.strip()) and (limit is None or entry.uncertainty <= limit)

    def standing(self, earlier: Sequence[Entry], own: Entry | None, captured: float) -> Standing | None:
        if own is not None and own.uncertainty <= self.sure:
            return Standing(own, 1.0)
        if earlier:
            return Standing(earlier[-1], 0.0)
        return None if own is None else Standing(own, 0.0)
