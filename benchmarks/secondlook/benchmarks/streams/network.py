"""Networks between site and cloud: when the answer about a key frame arrives, if it does.

Three kinds. *constant*: always the same delay. *lognormal*: every message draws its own, the median as given.
*trace*: delays wander as those of a mobile network do, slowly and with bursts, and messages are lost. A trace
is generated from a seed: none was recorded. Where more than one message is under way, answers overtake each
other in the latter two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from secondlook.edge.validation import validated

FloatArray = npt.NDArray[np.float64]

NetworkKind = Literal["constant", "lognormal", "trace"]

LOST: Final = float("inf")
"""The delay of what never arrives."""

_SIGMA: Final = 0.5
"""Of ln delay, for one message."""

_WANDER_SIGMA: Final = 0.4
"""Of ln delay, for the slow part of a trace."""

_WANDER_SECONDS: Final = 3.0
"""After which a trace has forgotten all but 1/e of where it was."""

_BURST: Final = 3.0
"""A trace's delays are so many times longer in a burst."""

_BURST_EVERY: Final = 8.0
_BURST_SECONDS: Final = 1.0

_KEYS: Final[dict[NetworkKind, int]] = {"constant": 0, "lognormal": 1, "trace": 2}


@validated(frozen=True)
class Network:
    """A network.

    Attributes:
        delay: seconds from a key frame's sending to its answer: the median, but for a trace's bursts.
        loss: share of messages that are lost, of whichever kind.
        seed: of whatever is drawn.
    """

    kind: NetworkKind = "constant"
    delay: Annotated[float, Field(ge=0)] = 1.0
    loss: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0

    def delays(self, stream: int, times: Sequence[float]) -> list[float]:
        """Of a key frame sent at each of these times (seconds, rising), or `LOST`.

        The same for every method that is compared: only when it sends is its own choice.
        """
        rng = np.random.default_rng([_KEYS[self.kind], self.seed, stream])
        count = len(times)
        lost = rng.random(count) < self.loss
        ln = np.zeros(count)
        if self.kind == "lognormal":
            ln += _SIGMA * rng.standard_normal(count)
        elif self.kind == "trace":
            ln += _wandering(rng, np.array(times)) + _SIGMA / 2 * rng.standard_normal(count)
        found: list[float] = np.where(lost, LOST, self.delay * np.exp(ln)).tolist()
        return found


def _wandering(rng: np.random.Generator, times: FloatArray) -> FloatArray:
    """[times], ln of a trace's delay over its median: an autoregression of the first order, and bursts."""
    steps = np.diff(times, prepend=times[:1] - _WANDER_SECONDS)
    noise, ends = rng.standard_normal(len(times)), -1.0
    found = np.empty(len(times))
    value = _WANDER_SIGMA * rng.standard_normal()
    for place, (time, step) in enumerate(zip(times, steps, strict=True)):
        kept = np.exp(-step / _WANDER_SECONDS)
        value = kept * value + _WANDER_SIGMA * np.sqrt(1 - kept**2) * noise[place]
        if time > ends and rng.random() < step / _BURST_EVERY:
            ends = time + _BURST_SECONDS
        found[place] = value + (np.log(_BURST) if time <= ends else 0.0)
    return found
