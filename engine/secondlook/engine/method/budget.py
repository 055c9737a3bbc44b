"""Keeping second looks, or the bytes of local images, at a budget while difficulty shifts.

Arithmetic alone: whoever holds a `BudgetedThreshold` tells it what was decided, and when.

*Which* questions are looked at twice a threshold decides: the quantile of the latest questions' needs (their
uncertainties, or what a gate expects) at the level that the budget wants. Where difficulty shifts, the window
follows.

*How many* are is held by a balance, looks taken less looks allowed over the latest `span` questions, that
corrects the level. Adaptive conformal inference (Gibbs & Candès, arXiv 2106.00172, equation 2) moves the
level by a step for each question, which sums up to a correction in proportion to the balance. That disturbs
the threshold all the time, and a disturbed threshold picks the wrong questions. Here the correction is the
fifth power of balance / slack: next to nothing in the middle, but at the slack no question is looked at
twice, and at minus the slack every one. So, whatever comes, as long as second looks are possible,

    in any `span` questions in a row the looks are within slack + 1 of what is allowed:

with 9 looks two points over 500 questions. The quantile alone could not promise that: 500 independent
decisions at a rate of 0.4 have a standard deviation of 2.2 points.

A budget of bytes a second is the same with another allowance: the bytes that the time since the last question
brought, in units of a mean local image.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from typing import Annotated, Final

from pydantic import Field, PositiveFloat

from secondlook.edge.errors import SettingsError
from secondlook.edge.geometry import Size, sent_size
from secondlook.edge.validation import validated
from secondlook.edge.wire import View

__all__ = ["BudgetSettings", "BudgetedThreshold"]

_POWER: Final = 5
"""Of the correction. Lower ones disturb the threshold more, higher ones pick questions blindly more often."""

_FEWEST: Final = 20
"""Questions before which the starting threshold stands."""

_BYTES_A_PIXEL: Final = 0.25
"""About what a local image has at its usual quality."""


@validated(frozen=True)
class BudgetSettings:
    """What is to be kept, and how closely. Exactly one of the first two is given.

    Attributes:
        retransmission_rate: share of questions looked at twice, above 0 and below 1.
        bytes_per_second: of local images. A ceiling where the questions cannot use it up.
        window: latest questions whose needs give the threshold. Shorter follows shifts faster, longer
            disturbs the threshold less.
        span: questions over which the budget is kept.
        slack: second looks that may be ahead of or behind it there.
    """

    retransmission_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    bytes_per_second: PositiveFloat | None = None
    window: Annotated[int, Field(ge=_FEWEST)] = 250
    span: Annotated[int, Field(ge=2)] = 500
    slack: Annotated[float, Field(ge=1)] = 9.0

    def __post_init__(self) -> None:
        if (self.retransmission_rate is None) == (self.bytes_per_second is None):
            raise SettingsError(
                "a budget is either a retransmission rate or bytes per second, not "
                f"{self.retransmission_rate} and {self.bytes_per_second}"
            )

    @classmethod
    def chosen(
        cls, retransmission_rate: float | None, bytes_per_second: float | None
    ) -> BudgetSettings | None:
        """What may have been chosen; None where neither was."""
        if (retransmission_rate, bytes_per_second) == (None, None):
            return None
        return cls(retransmission_rate, bytes_per_second)


class BudgetedThreshold:
    """The threshold under a budget, from question to question. One thread uses it; any may read `tracked`.

    Args:
        settings: what is to be kept.
        threshold: where to start from.
        local_bytes: a first guess at a local image's bytes; those that come replace it.

    Attributes:
        tracked: the threshold that would give the budget on the latest questions, without the correction.
        questions, looks, bytes: how many were counted since the start.
    """

    def __init__(self, settings: BudgetSettings, threshold: float, local_bytes: float = 10_000.0) -> None:
        self.settings = settings
        self.tracked = threshold
        self.questions = self.looks = self.bytes = 0
        self._mean_bytes = local_bytes
        self._images = 0
        self._balance = 0.0
        self._changes: deque[float] = deque()
        self._latest: deque[tuple[float, float]] = deque()
        self._sorted: list[float] = []

    @classmethod
    def of_view(
        cls, settings: BudgetSettings, threshold: float, view: View, crop_size: int
    ) -> BudgetedThreshold:
        """One that guesses at the bytes of a local image from its view, of a region of the smallest size."""
        pixels = sent_size(view, Size(crop_size, crop_size)).pixels
        return cls(settings, threshold, local_bytes=pixels * _BYTES_A_PIXEL)

    @property
    def share(self) -> float:
        """Of the questions, that the budget now allows a second look."""
        if self.settings.bytes_per_second is None:
            assert self.settings.retransmission_rate is not None, "one of the two is given"
            return self.settings.retransmission_rate
        if len(self._latest) < 2:
            return 1.0
        seconds = (self._latest[-1][1] - self._latest[0][1]) / (len(self._latest) - 1)
        return min(1.0, self.settings.bytes_per_second * seconds / self._mean_bytes)

    @property
    def threshold(self) -> float:
        """What the next question's need is compared with; infinite while nothing may be spent."""
        fullness = self._balance / self.settings.slack
        if fullness >= 1:
            return math.inf
        if fullness <= -1:
            return 0.0
        if len(self._sorted) < _FEWEST:
            return self.tracked
        share = self.share
        if fullness > 0:
            return self._quantile(share - share * fullness**_POWER)
        return self._quantile(share + (1 - share) * (-fullness) ** _POWER)

    def record(self, need: float, *, looked: bool, now: float = 0.0) -> None:
        """Count a question, after it was decided.

        Args:
            looked: whether it gets a second look.
            now: seconds that never run backwards; only a budget of bytes per second reads them.
        """
        self._change(looked - self._earned(now))
        if len(self._changes) >= self.settings.span:
            self._balance -= self._changes.popleft()
        self.questions += 1
        self.looks += looked
        self._latest.append((need, now))
        bisect.insort(self._sorted, need)
        if len(self._latest) > self.settings.window:
            oldest, _ = self._latest.popleft()
            del self._sorted[bisect.bisect_left(self._sorted, oldest)]
        if len(self._sorted) >= _FEWEST:
            self.tracked = self._quantile(self.share)

    def received(self, sent: int) -> None:
        """A local image of so many bytes came. It was charged as a mean one when it was decided on."""
        self.bytes += sent
        if self.settings.bytes_per_second is not None:
            change = sent / self._mean_bytes - 1
            self._changes[-1] += change
            self._balance += change
        self._images += 1
        self._mean_bytes += (sent - self._mean_bytes) / min(self._images, self.settings.window)

    def _change(self, amount: float) -> None:
        # What could not be spent, because no detail was to be gained or few questions came, is not saved up.
        amount = max(amount, -self.settings.slack - 1 - self._balance)
        self._changes.append(amount)
        self._balance += amount

    def _earned(self, now: float) -> float:
        """Looks that this question brings to the budget."""
        if self.settings.bytes_per_second is None:
            return self.share
        seconds = now - self._latest[-1][1] if self._latest else 0.0
        return self.settings.bytes_per_second * seconds / self._mean_bytes

    def _quantile(self, level: float) -> float:
        """The need that this share of the latest questions reaches, between neighbours linearly."""
        place = (1 - level) * (len(self._sorted) - 1)
        low = min(int(place), len(self._sorted) - 2)
        below, above = self._sorted[low], self._sorted[low + 1]
        return below + (above - below) * (place - low)
