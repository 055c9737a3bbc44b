"""The bound on wrong answers: against exact tails, and by drawing many logs whose truth is known."""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from math import comb

import numpy as np
import pytest

from secondlook.benchmarks.calibration.answers import Answers
from secondlook.benchmarks.calibration.bounds import binomial_upper_bound, wrong_share
from secondlook.benchmarks.calibration.choosing import choose
from secondlook.engine.method.policy_file import Target

QUESTIONS = 150
DRAWS = 400
RISK = 0.1


@pytest.mark.parametrize(("wrong", "trials"), [(0, 1), (0, 50), (3, 60), (59, 60), (40, 300)])
@pytest.mark.parametrize("risk", [0.05, 0.0005])
def test_the_bound_is_where_the_tail_has_the_risk(wrong: int, trials: int, risk: float) -> None:
    bound = Fraction(binomial_upper_bound(wrong, trials, risk))
    tail = sum(comb(trials, k) * bound**k * (1 - bound) ** (trials - k) for k in range(wrong + 1))
    assert float(tail) == pytest.approx(risk, rel=1e-6)
    assert bound > Fraction(wrong, trials)


def test_the_bound_of_none_is_known_in_closed_form() -> None:
    assert binomial_upper_bound(0, 100, 0.05) == pytest.approx(1 - 0.05 ** (1 / 100), abs=1e-9)
    assert binomial_upper_bound(0, 0, 0.05) == 1
    assert binomial_upper_bound(7, 7, 0.05) == 1


def drawn(generator: np.random.Generator, size: int = QUESTIONS) -> Answers:
    """First answers of doubt u, uniform from 0 to 1, are wrong with the probability u²; second ones right."""
    doubt = generator.uniform(0, 1, size)
    first = (generator.random(size) >= doubt**2).astype(float)
    ones = np.ones(size)
    return Answers(doubt, first, ones, ones, ones * generator.uniform(0.5, 1.5, size), np.arange(size))


def truly_wrong(threshold: float) -> float:
    """The mean of u² below the threshold."""
    return min(threshold, 1.0) ** 2 / 3


@pytest.mark.parametrize(
    "target",
    [
        Target(kind="retransmission_rate", value=0.4),
        Target(kind="bytes", value=1.45),
        Target(kind="accuracy", value=0.9),
    ],
    ids=lambda target: target.kind,
)
def test_the_bound_holds_as_often_as_it_says(target: Target) -> None:
    """Also where the threshold was chosen by looking at the very answers that it is bounded by."""
    generator = np.random.default_rng(12)
    broken, widths = 0, []
    for _ in range(DRAWS):
        answers = drawn(generator)
        choice = choose(answers, target, resamples=1)
        found = wrong_share(answers, choice.threshold.value, 1 - RISK, choice.candidates)
        truth = truly_wrong(choice.threshold.value)
        broken += found.bound < truth
        widths.append(found.bound - truth)
    # Three standard deviations above the risk would be chance no more.
    assert broken / DRAWS <= RISK + 3 * (RISK * (1 - RISK) / DRAWS) ** 0.5
    assert np.median(widths) < 0.2
    if target.kind == "retransmission_rate":
        assert broken / DRAWS >= RISK / 4  # exact but for the binomial's steps, not merely safe


def test_what_is_counted() -> None:
    doubt = np.array([-np.inf, 0.1, 0.2, 0.9, 1.0])
    first = np.array([0.0, 0.5, 0.49, 0.0, 0.0])
    ones = np.ones(5)
    found = wrong_share(Answers(doubt, first, ones, ones, ones, np.arange(5)), 0.9, 0.95, 1)
    assert (found.unrefined, found.wrong, found.candidates) == (3, 2, 1)
    assert found.bound == binomial_upper_bound(2, 3, 1 - 0.95)
    many = wrong_share(Answers(doubt, first, ones, ones, ones, np.arange(5)), 0.9, 0.95, 10)
    assert many.bound == binomial_upper_bound(2, 3, (1 - 0.95) / 10) > found.bound


def test_the_bound_holds_where_questions_about_one_picture_go_wrong_together() -> None:
    generator, target = np.random.default_rng(5), Target(kind="retransmission_rate", value=0.4)
    broken = 0
    for _ in range(DRAWS):
        alone = drawn(generator)
        each = np.repeat(np.arange(QUESTIONS), 5)
        answers = Answers(*(getattr(alone, field.name)[each] for field in fields(alone)))
        choice = choose(answers, target, resamples=1)
        found = wrong_share(answers, choice.threshold.value, 1 - RISK, choice.candidates)
        assert found.unrefined == (alone.doubt < choice.threshold.value).sum()
        broken += found.bound < truly_wrong(choice.threshold.value)
    assert broken / DRAWS <= RISK + 3 * (RISK * (1 - RISK) / DRAWS) ** 0.5
