"""A gate on gain: from the doubt about each token to how likely a second look makes the answer better.

Doubt is not gain: of some questions the model is never sure, and no detail helps. One number of doubt cannot
tell them from those where it does; how it lies over tokens and measures can. The gate is a logistic
regression, which `secondlook calibrate threshold --gate` fits on a log; here is what is served, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias, get_args

from pydantic import Field, PositiveInt

from secondlook.edge.errors import SettingsError
from secondlook.edge.validation import validated
from secondlook.edge.wire import Measure
from secondlook.engine.method.uncertainty import TokenStatistics

if TYPE_CHECKING:  # numpy is loaded where there is a gate, for a server of an upstream's model has none
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    FloatArray: TypeAlias = NDArray[np.float64]

__all__ = ["FEATURES", "Aim", "Feature", "Gate", "feature_table"]

Aim = Literal["gain", "change"]
"""What a gate was fitted to tell: that a second look makes the answer better or, where the truth is not
known, that the surer of both answers is another one than the first."""

Feature = Literal[
    "min_entropy_mean",
    "shannon_entropy_mean",
    "margin_mean",
    "min_entropy_max",
    "shannon_entropy_max",
    "margin_max",
    "tokens",
]

FEATURES: Final[tuple[Feature, ...]] = get_args(Feature)
"""In the order of a table's columns."""

_MEASURES: Final[tuple[Measure, ...]] = get_args(Measure)

_LEAST: Final = 1e-3
"""Added to doubts before their logarithm is taken: less than that is no doubt."""

_Weight: TypeAlias = Annotated[float, Field(ge=-1e6, le=1e6)]  # so that no sum overflows


@validated(frozen=True)
class Gate:
    """A fitted gate.

    Attributes:
        version: of what the features are.
        intercept: log-odds of a gain where every feature is 0.
        weights: what one more of a feature adds to them.
        pictures, questions: it was fitted on so many.
    """

    version: Literal[1]
    aim: Aim
    intercept: _Weight
    weights: dict[Feature, _Weight]
    pictures: PositiveInt
    questions: PositiveInt

    def __post_init__(self) -> None:
        if missing := [name for name in FEATURES if name not in self.weights]:
            raise SettingsError(f"a gate has a weight for every feature, but none for {', '.join(missing)}")

    def gain(self, features: FloatArray) -> FloatArray:
        """The probability of a gain, from 0 to 1.

        Args:
            features: [..., features], as `feature_table` gives them.
        """
        import numpy as np

        weights = np.array([self.weights[name] for name in FEATURES])
        probability: FloatArray = np.exp(-np.logaddexp(0.0, -(features @ weights + self.intercept)))
        return probability

    def expects(self, tokens: Sequence[TokenStatistics]) -> float:
        """The same of one answer, of at least one token."""
        import numpy as np

        doubts = np.array([[getattr(token, name) for name in _MEASURES] for token in tokens])
        return float(self.gain(feature_table(doubts.mean(axis=0), doubts.max(axis=0), len(tokens))))


def feature_table(means: ArrayLike, maxima: ArrayLike, tokens: ArrayLike) -> FloatArray:
    """[..., features] in the order of `FEATURES`, of one question or of many: doubts as their logarithms.

    Args:
        means, maxima: [..., 3], of each measure over an answer's tokens, in the order of `Measure`.
        tokens: [...], how many these are.
    """
    import numpy as np

    doubts = np.concatenate([np.asarray(means, np.float64), np.asarray(maxima, np.float64)], axis=-1)
    return np.concatenate([np.log(doubts + _LEAST), np.asarray(tokens, np.float64)[..., None]], axis=-1)
