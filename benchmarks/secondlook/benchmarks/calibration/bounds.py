"""How many of the answers without a second look are wrong, at most: a bound that holds with known confidence.

What is guaranteed. Let the questions of the log and those to come be independent draws from one
distribution. Then, with probability at least `confidence` over the draw of the log, the share of wrong
answers among the questions to come that get no second look is at most `bound`. (Exchangeability of
each question with the rest, which conformal methods ask for, would bound the expectation alone.) It says
nothing of a stream whose difficulty has shifted since, or of a threshold that moves. Questions about one
picture may go wrong together: of several, one is counted, drawn at random; as the threshold is chosen on all
of them, the guarantee is then nearly that.

How. Let the thresholds tried be order statistics of the doubts, at ranks fixed beforehand. Given its value,
the questions below an order statistic are independent draws of a question below that value; how many of them
are wrong is a binomial count, bounded by Clopper & Pearson (Biometrika 26, 1934). A threshold for a rate is
one such order statistic. One for bytes or for accuracy is chosen among `candidates` of them by looking at the
answers, and so each is tested at (1 - confidence) / candidates: the union bound of Learn then Test
(Angelopoulos et al., arXiv 2110.01052). Ties among doubts, which continuous measures hardly have, are not
treated.
"""

from __future__ import annotations

import math

import numpy as np

from secondlook.benchmarks.analysis.columns import BoolArray, IntArray
from secondlook.benchmarks.calibration.answers import Answers
from secondlook.engine.method.policy_file import WrongShare

__all__ = ["binomial_upper_bound", "wrong_share"]

_WRONG_BELOW = 0.5
"""An answer is wrong if its score is below a half, as everywhere in the evaluation."""


def wrong_share(answers: Answers, threshold: float, confidence: float, candidates: int) -> WrongShare:
    """The bound at one of so many thresholds."""
    unrefined = (answers.doubt < threshold) & _one_each(answers.picture)
    wrong = int((answers.first[unrefined] < _WRONG_BELOW).sum())
    total = int(unrefined.sum())
    bound = binomial_upper_bound(wrong, total, (1 - confidence) / candidates)
    return WrongShare(bound=bound, confidence=confidence, unrefined=total, wrong=wrong, candidates=candidates)


def _one_each(picture: IntArray) -> BoolArray:
    """[questions], true of one question for each picture, the same ones each time."""
    drawn = np.random.default_rng(0).permutation(len(picture))
    _, first = np.unique(picture[drawn], return_index=True)
    chosen = np.zeros(len(picture), np.bool_)
    chosen[drawn[first]] = True
    return chosen


def binomial_upper_bound(successes: int, trials: int, risk: float) -> float:
    """The p at which `successes` or fewer of `trials` have the probability `risk`; 1 without any failure.

    The upper end of Clopper & Pearson's one-sided interval, to 1e-12, by bisection.
    """
    if successes >= trials:
        return 1.0
    counts = np.arange(successes + 1)
    ways = np.array(
        [math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in counts]
    )
    low, high = successes / trials, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        logs = ways + counts * math.log(middle or 1e-300) + (trials - counts) * math.log1p(-middle)
        if np.exp(logs).sum() > risk:
            low = middle
        else:
            high = middle
    return high
