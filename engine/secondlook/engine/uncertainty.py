"""How unsure an answer is: one number per output token, then one number per answer.

The measures are those of Song & Kim, arXiv 2512.16349 (Rényi entropy of order ∞, Shannon entropy, probability
margin), in natural logarithms, turned so that all three grow with doubt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from secondlook.edge.wire import Aggregation, Measure

__all__ = ["Measures", "TokenStatistics", "aggregate", "statistics"]


class Measures(NamedTuple):
    """The three measures of many distributions at once; each is a tensor of the leading dimensions."""

    min_entropy: Tensor
    shannon_entropy: Tensor
    margin: Tensor


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


def statistics(logits: Tensor) -> Measures:
    """Measure every distribution softmax(logits) over the last dimension.

    Args:
        logits: [..., V] in any floating dtype; -inf marks impossible tokens. Each row needs one finite entry
            and neither NaN nor +inf, otherwise that row's measures are NaN.

    Returns:
        three tensors [...] on the same device, float64 for float64 logits and float32 otherwise.

    With d_v = max - logit_v and s = Σ exp(-d_v) over all tokens but the best, p₁ = 1 / (1 + s). Written in s
    no measure subtracts nearly equal numbers, so that even very sure tokens keep a distinct, correctly
    rounded doubt.
    """
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, not {logits.dtype}")
    wide = logits if logits.dtype == torch.float64 else logits.float()
    best, index = wide.max(dim=-1, keepdim=True)
    distance = best - wide
    weight = torch.exp(-distance)
    weight = weight.scatter(-1, index, 0.0)
    # An impossible token has distance inf and weight 0, and contributes 0 to the entropy, not 0·inf. A NaN
    # stays.
    spread = torch.where(weight == 0, weight, weight * distance)
    # best - best is 0, or NaN where the best logit is not finite: such a row must not pass for a sure one.
    others = weight.sum(dim=-1) + (best - best).squeeze(-1)
    total = 1.0 + others
    min_entropy = torch.log1p(others)
    return Measures(
        min_entropy=min_entropy,
        shannon_entropy=min_entropy + spread.sum(dim=-1) / total,
        margin=(others + weight.amax(dim=-1)) / total,
    )


def aggregate(
    tokens: Sequence[TokenStatistics],
    measure: Measure = "min_entropy",
    aggregation: Aggregation = "all",
    first_k: int = 5,
    include_eos: bool = True,
) -> float:
    """The mean of `measure` over all, the first, or the first k tokens.

    Without `include_eos` the end token is left out before the tokens are counted, unless the answer is
    nothing
    but the end token: its doubt is then the only evidence there is, and counts.

    Raises:
        ValueError: no tokens, an unknown name, or first_k below 1.
    """
    if not tokens:
        raise ValueError("an answer has at least one token, got none")
    counted = [token for token in tokens if include_eos or not token.is_eos] or list(tokens)
    if aggregation == "first":
        counted = counted[:1]
    elif aggregation == "first_k":
        if first_k < 1:
            raise ValueError(f"first_k must be at least 1, got {first_k}")
        counted = counted[:first_k]
    elif aggregation != "all":
        raise ValueError(f"aggregation must be 'all', 'first' or 'first_k', got {aggregation!r}")
    return sum(_value(token, measure) for token in counted) / len(counted)


def _value(token: TokenStatistics, measure: Measure) -> float:
    if measure == "min_entropy":
        return token.min_entropy
    if measure == "shannon_entropy":
        return token.shannon_entropy
    if measure == "margin":
        return token.margin
    raise ValueError(f"measure must be 'min_entropy', 'shannon_entropy' or 'margin', got {measure!r}")
