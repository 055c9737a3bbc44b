"""When to look twice, and which answer to keep. Pure decisions over numbers.

Song & Kim, arXiv 2512.16349: an answer whose uncertainty G is below the threshold η is final. What is
compared with a threshold is called *need* here: the uncertainty or, where the policy has a gate, the gain
that it expects of a second look. The uncertainty is what replies tell and arbitration compares, gate or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import NonNegativeFloat, PositiveInt

from secondlook.edge.errors import SettingsError
from secondlook.edge.validation import validated
from secondlook.edge.wire import Aggregation, AnswerOptions, Measure
from secondlook.engine.method.gate import Gate
from secondlook.engine.method.uncertainty import TokenStatistics, aggregate

__all__ = ["Policy", "keep_second"]


@validated(frozen=True)
class Policy:
    """How doubt is measured and what follows from it.

    Attributes:
        threshold: η; an answer is final if its need is below. In nats for the entropies; from 0 to 1 with a
            gate.
        measure: which per-token measure.
        aggregation: over which tokens its mean is taken.
        first_k: how many tokens "first_k" takes.
        include_eos: whether the end token counts.
        arbitration: keep the surer of both answers; off, the second answer always stands.
        decide_after: tokens after which it is decided whether to look again, if the answer has more; the rest
            is decoded while the edge prepares its crop.
        gate: what expects a gain; None: the uncertainty decides.
    """

    threshold: NonNegativeFloat
    measure: Measure = "min_entropy"
    aggregation: Aggregation = "all"
    first_k: PositiveInt = 5
    include_eos: bool = True
    arbitration: bool = True
    decide_after: PositiveInt = 5
    gate: Gate | None = None

    def with_options(self, options: AnswerOptions) -> Policy:
        """This policy with one request's choices put over it; what the request leaves out stays.

        A request's own threshold is of the uncertainty, which replies tell: no gate decides on it.

        Raises:
            SettingsError: another measure without a threshold of its own, where one decides; this policy's is
                for its own measure.
        """
        other = options.measure is not None and options.measure != self.measure
        if other and options.threshold is None and options.second_look == "auto":
            raise SettingsError(
                f"measure {options.measure} needs a threshold of its own; the default is for {self.measure}"
            )
        return replace(
            self,
            threshold=self.threshold if options.threshold is None else options.threshold,
            measure=self.measure if options.measure is None else options.measure,
            aggregation=self.aggregation if options.aggregation is None else options.aggregation,
            first_k=self.first_k if options.first_k is None else options.first_k,
            include_eos=self.include_eos if options.include_eos is None else options.include_eos,
            arbitration=self.arbitration if options.arbitration is None else options.arbitration,
            decide_after=self.decide_after if options.decide_after is None else options.decide_after,
            gate=self.gate if options.threshold is None else None,
        )

    def uncertainty(self, tokens: Sequence[TokenStatistics]) -> float:
        """G, the answer's one number."""
        return aggregate(tokens, self.measure, self.aggregation, self.first_k, self.include_eos)

    def need(self, tokens: Sequence[TokenStatistics]) -> float:
        """What is compared with the threshold, of the tokens that it is decided on."""
        return self.uncertainty(tokens) if self.gate is None else self.gate.expects(tokens)


def keep_second(first_uncertainty: float, second_uncertainty: float, policy: Policy) -> bool:
    """Arbitration: whether the second answer replaces the first. On a tie it does, for it saw more."""
    return not policy.arbitration or second_uncertainty <= first_uncertainty
