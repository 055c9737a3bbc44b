"""From a log and a target to a policy file, with a bound on how many answers without a second look are wrong.

What is guaranteed. Let the questions of the log and those to come be independent draws from one
distribution. Then, with probability at least `confidence` over the draw of the log, the share of wrong
answers among the questions to come that get no second look is at most `bound`. (Exchangeability of
each question with the rest, which conformal methods ask for, would bound the expectation alone.) It says
nothing of a stream whose difficulty has shifted since, or of a threshold that moves. Questions about one
picture may go wrong together: of several, one is counted, drawn at random; as the threshold is chosen on all
of them, the guarantee is then nearly that.

How. Let the thresholds tried be order statistics of the needs, at ranks fixed beforehand. Given its value,
the questions below an order statistic are independent draws of a question below that value; how many of them
are wrong is a binomial count, bounded by Clopper & Pearson (Biometrika 26, 1934). A threshold for a rate is
one such order statistic. One for bytes or for accuracy is chosen among `candidates` of them by looking at the
answers, and so each is tested at (1 - confidence) / candidates: the union bound of Learn then Test
(Angelopoulos et al., arXiv 2110.01052). What a gate expects is a need like any other, for it is fitted on
pictures that are then left out. Ties among needs, which continuous measures hardly have, are not treated.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from secondlook.benchmarks.analysis.runs import Run, read_run
from secondlook.benchmarks.calibration.gate import fit_gate, halves
from secondlook.benchmarks.calibration.thresholds import Answers, choose
from secondlook.engine.method.gate import Aim
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.policy_file import CalibratedOn, PolicyFile, Target, WrongShare

_WRONG_BELOW = 0.5
"""An answer is wrong if its score is below a half, as everywhere in the evaluation."""


def wrong_share(answers: Answers, threshold: float, confidence: float, candidates: int) -> WrongShare:
    """The bound at one of so many thresholds."""
    drawn = np.random.default_rng(0).permutation(len(answers.picture))
    _, place = np.unique(answers.picture[drawn], return_index=True)
    one_each = drawn[place]  # of each picture one question, the same ones each time
    unrefined = one_each[answers.need[one_each] < threshold]
    wrong = int((answers.first[unrefined] < _WRONG_BELOW).sum())
    total = len(unrefined)
    bound = binomial_upper_bound(wrong, total, (1 - confidence) / candidates)
    return WrongShare(bound=bound, confidence=confidence, unrefined=total, wrong=wrong, candidates=candidates)


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


def calibrate(
    log: Path,
    target: Target,
    policy: Policy,
    *,
    gate: Aim | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> PolicyFile:
    """The policy for a target.

    Args:
        log: of a full-retransmission run.
        policy: how doubt is measured and what follows; its threshold is not used.
        gate: what one is fitted to tell, on one half of the pictures; all else is of the other half. None:
            the uncertainty decides, and all is of all.
        confidence: of the intervals and the bound.
    """
    run = read_run(log)
    if gate is not None:
        fitted_on, rest = halves(run.columns, seed)
        policy = replace(policy, gate=fit_gate(fitted_on, policy, gate))
        run = replace(run, columns=rest)
    answers = Answers.of(run.columns, policy)
    choice = choose(answers, target, confidence=confidence, resamples=resamples, seed=seed)
    threshold = choice.threshold.value
    return PolicyFile(
        **vars(replace(policy, threshold=threshold)),
        target=target,
        threshold_interval=choice.threshold,
        expected=choice.expected,
        confidence=confidence,
        wrong_unrefined=wrong_share(answers, threshold, confidence, choice.candidates),
        calibrated_on=_described(run),
    )


def _described(run: Run) -> CalibratedOn:
    settings, model = run.header.settings, run.header.settings["model"]
    return CalibratedOn(
        logs=(run.digest,),
        model=str(run.made.get("model")),
        weights=model["weights"],
        dtype=model["dtype"],
        data=settings["data"],
        jpeg=settings["jpeg"],
        pictures=len(set(run.columns.picture.tolist())),
        questions=len(run.columns),
        localisation=model.get("localisation"),
    )
