"""Whether a question gets a second look: by the request's options, by the threshold, or by the budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.method.budget import Budget
from secondlook.engine.method.policy import Policy, no_detail_to_gain, wants_second_look
from secondlook.engine.results import FirstDecision

__all__ = ["Deciding"]

_log = logging.getLogger(__name__)

_TOLD_EVERY: Final = 100
"""Counted questions from one line of the log about the budget to the next."""


@dataclass(frozen=True)
class Deciding:
    """Decides on one thread, question by question.

    Attributes:
        policy: the server's own.
        image_size: side of the encoder's square, in pixels.
        budget: decides instead of the policy's threshold, for questions that leave all of it to the server:
            the threshold, how doubt is measured, and whether to look twice. The others are not counted.
        clock: for the budget; seconds that never run backwards.
    """

    policy: Policy
    image_size: int
    budget: Budget | None = None
    clock: Callable[[], float] = time.monotonic

    @property
    def threshold(self) -> float:
        """The one in force, finite. May be read on any thread."""
        return self.policy.threshold if self.budget is None else self.budget.tracked

    def counts(self, policy: Policy, options: AnswerOptions) -> bool:
        """Whether the budget decides on a request of these options; `policy` is the server's with them."""
        own = replace(policy, arbitration=self.policy.arbitration) == self.policy
        left = options.threshold is None and options.second_look == "auto"
        return self.budget is not None and own and left

    def decide(
        self, uncertainty: float, original: Size, policy: Policy, options: AnswerOptions
    ) -> FirstDecision:
        """What comes of a first answer, before its region is known. The budget counts what it decided."""
        if self.budget is not None and self.counts(policy, options):
            wanted = self.budget.wants_second_look(uncertainty)
            possible = self._if_detail(original)
            decision = possible if wanted else "sure"
            # Doubt that no second look can follow has no say in which of the others are the most doubtful.
            counted = uncertainty if possible == "unsure" else 0.0
            self._record(self.budget, counted, looked=decision == "unsure")
            return decision
        if options.second_look == "never":
            return "disabled"
        if options.second_look == "auto" and not wants_second_look(uncertainty, policy):
            return "sure"
        return self._if_detail(original)

    def _if_detail(self, original: Size) -> FirstDecision:
        return "no_detail_to_gain" if no_detail_to_gain(original, self.image_size) else "unsure"

    def _record(self, budget: Budget, uncertainty: float, *, looked: bool) -> None:
        budget.record(uncertainty, looked=looked, now=self.clock())
        if budget.questions % _TOLD_EVERY == 0:
            _log.info(
                "budget: %d of %d questions looked at twice, %d bytes of local images; the threshold is %.4g",
                budget.looks,
                budget.questions,
                budget.bytes,
                budget.tracked,
            )
