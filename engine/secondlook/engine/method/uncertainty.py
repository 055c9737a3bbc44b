"""How unsure an answer is: one number per output token, then one number per answer.

The measures are those of Song & Kim, arXiv 2512.16349 (Rényi entropy of order ∞, Shannon entropy, probability
margin), in natural logarithms, turned so that all three grow with doubt. The operators of
`secondlook.kernels` compute them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from secondlook.edge.wire import Aggregation, Measure

__all__ = ["TokenStatistics", "aggregate"]


@dataclass(frozen=True)
class TokenStatistics:
    """The doubt about one output token.

    Attributes:
        min_entropy: -ln max p, in nats.
        shannon_entropy: -Σ p ln p, in nats.
        margin: 1 - (p₁ - p₂), between 0 and 1.
        is_eos: whether the token chosen was an end token.
    """

    min_entropy: float
    shannon_entropy: float
    margin: float
    is_eos: bool

    @property
    def max_probability(self) -> float:
        """p₁, the probability of the token chosen."""
        return math.exp(-self.min_entropy)

    @property
    def second_probability(self) -> float:
        """p₂, the probability of the runner-up."""
        return max(0.0, self.max_probability - (1.0 - self.margin))


def aggregate(
    tokens: Sequence[TokenStatistics],
    measure: Measure = "min_entropy",
    aggregation: Aggregation = "all",
    first_k: int = 5,
    include_eos: bool = True,
) -> float:
    """The mean of `measure` over all, the first, or the first k tokens; a `Policy` checks what they may be.

    Without `include_eos` the end token is left out before the tokens are counted, unless the answer is
    nothing but the end token: its doubt is then the only evidence there is, and counts.

    Raises:
        ValueError: no tokens.
    """
    if not tokens:
        raise ValueError("an answer has at least one token, got none")
    counted = [token for token in tokens if include_eos or not token.is_eos] or list(tokens)
    counted = counted[: {"all": None, "first": 1, "first_k": first_k}[aggregation]]
    values: list[float] = [getattr(token, measure) for token in counted]
    return sum(values) / len(values)
