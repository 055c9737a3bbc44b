"""Whether a question gets a second look: by the request's options, by the threshold, or by the budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from secondlook.edge.geometry import Region, Size, target, too_slender
from secondlook.edge.wire import AnswerOptions, View
from secondlook.engine.method.budget import BudgetedThreshold
from secondlook.engine.method.policy import Policy

__all__ = ["Decider", "FinalDecision", "FirstDecision", "decide", "no_detail_to_gain"]

_log = logging.getLogger(__name__)

FirstDecision = Literal["sure", "no_detail_to_gain", "disabled", "unsure"]
FinalDecision = Literal["kept_first", "took_second"]

_TOLD_EVERY: Final = 100
"""Counted questions from one line of the log about the budget to the next."""


def no_detail_to_gain(view: View, original: Size, region: Region | None = None) -> bool:
    """Whether a local image could show nothing that the global image did not.

    That is so when the global image's target is at least as large as the original in both directions, or when
    the region is the whole original.
    """
    seen = target(view, original)
    whole = original.width <= seen.width and original.height <= seen.height
    return whole or (region is not None and region.covers(original))


def decide(
    need: float, threshold: float, second_look: Literal["auto", "always", "never"], *, detail: bool
) -> FirstDecision:
    """What comes of a first answer (Song & Kim, arXiv 2512.16349: it is final if its uncertainty is below η).

    Args:
        need: the uncertainty, or what a gate expects (`secondlook.engine.method.policy`).
        threshold: η; infinite: no second look.
        second_look: the request's choice.
        detail: whether a local image could show more.
    """
    if second_look == "never":
        return "disabled"
    if second_look == "auto" and need < threshold:
        return "sure"
    return "unsure" if detail else "no_detail_to_gain"


@dataclass(frozen=True)
class Decider:
    """Decides on one thread, question by question.

    Attributes:
        policy: the server's own.
        view: of the global image.
        budget: decides instead of the policy's threshold, for questions that leave all of it to the server:
            the threshold, what it is of, and whether to look twice. The others are not counted.
        clock: for the budget; seconds that never run backwards.
        local_view: of regions; one that is too slender for it is not looked at.
    """

    policy: Policy
    view: View
    budget: BudgetedThreshold | None = None
    clock: Callable[[], float] = time.monotonic
    local_view: View | None = None

    @property
    def threshold(self) -> float:
        """The one in force, finite. May be read on any thread."""
        return self.policy.threshold if self.budget is None else self.budget.tracked

    def counts(self, policy: Policy, options: AnswerOptions) -> bool:
        """Whether the budget decides on a request of these options; `policy` is the server's with them."""
        own = replace(policy, arbitration=self.policy.arbitration) == self.policy
        left = options.threshold is None and options.second_look == "auto"
        return self.budget is not None and own and left

    def seeks(self, need: float, original: Size, policy: Policy, options: AnswerOptions) -> bool:
        """Whether a region is to be sought: as things are now, only that could still spare the second look.

        Decides nothing: until the region is known, others are decided on.
        """
        return self._decided(need, original, policy, options, None) == "unsure"

    def decide(
        self,
        need: float,
        original: Size,
        policy: Policy,
        options: AnswerOptions,
        region: Region | None,
        *,
        found: bool = True,
    ) -> FirstDecision:
        """The decision, counted by the budget: once a question, when all that it depends on is known.

        Args:
            region: where it would be looked; None where none was sought.
            found: False where one was sought in vain, so that no look follows, whatever is decided.
        """
        decision = self._decided(need, original, policy, options, region)
        if self.budget is not None and self.counts(policy, options):
            # Need that no second look can follow has no say in which of the others need one the most.
            possible = found and self._detail(original, region)
            looked = found and decision == "unsure"
            self.budget.record(need if possible else 0.0, looked=looked, now=self.clock())
            if self.budget.questions % _TOLD_EVERY == 0:
                _tell(self.budget)
        return decision

    def _decided(
        self,
        need: float,
        original: Size,
        policy: Policy,
        options: AnswerOptions,
        region: Region | None,
    ) -> FirstDecision:
        budget = self.budget if self.counts(policy, options) else None
        threshold = policy.threshold if budget is None else budget.threshold
        detail = self._detail(original, region)
        return decide(need, threshold, options.second_look, detail=detail)

    def _detail(self, original: Size, region: Region | None) -> bool:
        if region is not None and self.local_view is not None and too_slender(self.local_view, region.size):
            return False
        return not no_detail_to_gain(self.view, original, region)


def _tell(budget: BudgetedThreshold) -> None:
    _log.info(
        "budget: %d of %d questions looked at twice, %d bytes of local images; the threshold is %.4g",
        budget.looks,
        budget.questions,
        budget.bytes,
        budget.tracked,
    )
