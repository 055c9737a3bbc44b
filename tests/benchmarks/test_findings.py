"""What is said of the claims, where it is plain whether they hold."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.samples import a_look, a_record
from secondlook.benchmarks.analysis.bootstrap import Bootstrap, Estimate
from secondlook.benchmarks.analysis.curves import Line
from secondlook.benchmarks.analysis.findings import arbitration, first_tokens, jpeg, nearly_full, ranking
from secondlook.benchmarks.analysis.qualities import envelope
from secondlook.benchmarks.analysis.separation import Separation
from secondlook.benchmarks.replay import Replay
from secondlook.engine.method.policy import Policy


def line(cost: list[float], accuracy: list[float]) -> Line:
    return Line(
        np.array([np.inf, *range(len(cost) - 1, 0, -1)], np.float64), np.array(cost), np.array(accuracy)
    )


@pytest.mark.parametrize("holds", [True, False])
def test_full_accuracy_at_half_the_communication(holds: bool) -> None:
    found = nearly_full(Estimate(0.5 if holds else 0.6, 0.4, 0.7), 1.0, 0.81, "pixels")
    assert found.holds is holds
    assert ("reached at 0.50 (0.40 to 0.70), 50 % less than always" in found.detail) is holds


def test_an_accuracy_that_arbitration_never_reaches_is_said_so() -> None:
    found = nearly_full(Estimate(np.nan, np.nan, np.nan), 1.0, 0.8, "bytes")
    assert (found.holds, found.detail[:13]) == (False, "never reached")


def area(value: float) -> Separation:
    none = Estimate(np.nan, np.nan, np.nan)
    return Separation(Estimate(value, value, value), none, none)


@pytest.mark.parametrize(("least", "holds"), [(0.92, True), (0.89, False), (np.nan, None)])
def test_the_ranking_of_measures(least: float, holds: bool | None) -> None:
    found = ranking({"min-entropy": area(least), "Shannon entropy": area(0.91), "margin": area(0.8)})
    assert found.holds is holds
    assert ("the paper's ranking of measures did not hold here" in found.detail) is (holds is False)


def test_arbitration_is_compared_at_every_threshold() -> None:
    surer_but_wrong = a_record(0, a_look(1.0, [2.0]), a_look(0.0, [0.1]))
    vaguer_but_right = a_record(1, a_look(0.0, [1.0]), a_look(1.0, [3.0]))
    for records, worst, best in (
        ([surer_but_wrong, vaguer_but_right], "-50.00", "+0.00"),
        ([a_record(0, a_look(1.0, [1.0]), a_look(0.0, [3.0]))], "+0.00", "+100.00"),
    ):
        replays = (Replay(records, Policy(0.0, arbitration=kept)) for kept in (True, False))
        found = arbitration(*replays, Bootstrap(np.arange(len(records))))
        assert found.holds is (worst == "+0.00")
        assert f"at worst {worst} (" in found.detail
        assert f"at best {best}" in found.detail


def test_the_first_tokens_decide_as_well_as_all_only_if_they_do() -> None:
    late = [0.1] * 5 + [9.0]  # all doubt is in the sixth token
    records = [
        a_record(0, a_look(0.0, late), a_look(1.0, [0.0])),
        a_record(1, a_look(1.0, [0.5]), a_look(1.0, [0.0])),
    ]
    every = Replay(records, Policy(0.0, decide_after=9))
    five = Replay(records, Policy(0.0, aggregation="first_k", first_k=5))
    found = first_tokens(every, five, Bootstrap(every.columns.picture))
    assert found.holds is False
    assert found.detail.startswith("at worst -50.0 (")
    assert found.detail.endswith(" points, at a rate of 50 %; 50 % of the first answers are longer")
    assert first_tokens(every, every, Bootstrap(every.columns.picture)).holds is True


def test_an_operating_point_that_beats_one_good_image() -> None:
    lines = [line([100.0, 200.0], [0.5, 0.9]), line([300.0, 500.0], [0.6, 0.95])]
    best = envelope(lines)
    pairs = [(50, 70), (95, 90)]
    assert jpeg(best, pairs, (300.0, 0.6), 7).detail.endswith(" (on the 7 questions that all logs have)")
    found = jpeg(best, pairs, (300.0, 0.6))
    assert found.holds is True
    assert found.detail.startswith(
        "0.2 kB, 90.0 % with qualities 50 and 70; one global image at quality 95: 0.3 kB"
    )
    assert jpeg(best, pairs, (100.0, 0.6)).holds is False
    assert jpeg(best, pairs, None).holds is None
