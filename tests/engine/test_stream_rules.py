"""What stands, on paper: against the forward algorithm over every answer that could be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.edge.errors import SettingsError
from secondlook.edge.wire_stream import By
from secondlook.engine.stream.history import Entry
from secondlook.engine.stream.rules import Belief, Newest

SURE, UNSURE = 0.001, 0.3


def entry(frame: int, text: str, doubt: float, by: By = "own") -> Entry:
    return Entry(frame, frame / 5, text, doubt, by)


def forward(rule: Belief, said: list[Entry], captured: float) -> dict[str, float]:
    """The chance of each text: every hidden answer has a row, also those that nobody said."""
    texts = list(dict.fromkeys(each.text for each in said))
    count = round(rule.others)
    belief = np.full(count, 1 / count)
    time = said[0].captured
    for each in [*said, None]:
        stays = math.exp(-rule.change * ((captured if each is None else each.captured) - time))
        change = np.full((count, count), (1 - stays) / count) + stays * np.eye(count)
        belief = change.T @ belief
        if each is None:
            break
        time = each.captured
        right = (1 - 1 / count) * math.exp(-rule.sharpness * each.uncertainty)
        likely = np.full(count, (1 - right) / count)
        likely[texts.index(each.text)] += right
        belief = belief * likely / (belief * likely).sum()
    return {text: belief[number] for number, text in enumerate(texts)}


SAID = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from("abcd"), st.floats(0.0, 0.44), st.booleans()), min_size=1
)


@given(SAID, st.floats(0.02, 1.0), st.integers(41, 60))
def test_chances_are_those_of_the_forward_algorithm(
    drawn: list[tuple[int, str, float, bool]], change: float, at: int
) -> None:
    rule = Belief(change=change, others=100)
    said = sorted(
        (entry(frame, text, doubt, "cloud" if cloud else "own") for frame, text, doubt, cloud in drawn),
        key=lambda each: each.rank,
    )
    assert all(map(rule.counts, said))
    expected = forward(rule, said, at / 5)
    found = rule.standing(said, None, at / 5)
    assert found is not None
    assert found.chance == pytest.approx(max(expected.values()), rel=1e-6)
    assert expected[found.entry.text] == pytest.approx(found.chance, rel=1e-6)
    assert found.entry == max((each for each in said if each.text == found.entry.text), key=lambda x: x.rank)


def test_a_sure_answer_stands_until_it_is_old() -> None:
    rule = Belief()
    sure = entry(0, "75", SURE, "cloud")

    def standing(frame: int) -> str:
        found = rule.standing([sure], entry(frame, "57", 0.25), frame / 5)
        assert found is not None
        return found.entry.text

    assert standing(1) == "75"
    assert standing(5 * 60) == "57"  # a minute later the unsure one is the better guess


def test_answers_that_agree_outweigh_a_surer_one() -> None:
    rule, one = Belief(), entry(3, "57", 0.15)
    agreeing = [entry(frame, "75", 0.2) for frame in range(3)]
    single, together = rule.standing(agreeing[-1:], one, 0.6), rule.standing(agreeing, one, 0.6)
    assert single is not None
    assert together is not None
    assert (single.entry.text, together.entry.text) == ("57", "75")
    assert together.chance > single.chance


def test_what_tells_nothing_does_not_count() -> None:
    rule = Belief()
    assert rule.counts(entry(0, "75", 0.4))
    assert not rule.counts(entry(0, "75", 0.5))
    assert not rule.counts(entry(0, " ", 0.0))
    guess = entry(1, "guess", 2.0)
    alone, after = rule.standing([], guess, 0.2), rule.standing([entry(0, "75", SURE)], guess, 0.2)
    assert alone is not None  # there is no other
    assert alone.entry is guess
    assert alone.chance < 0.01
    assert after is not None
    assert after.entry.text == "75"
    assert rule.standing([], None, 0.2) is None


def test_two_of_one_frame_that_contradict_each_other_leave_a_doubt() -> None:
    rule = Belief()
    found = rule.standing([entry(0, "75", 0.0), entry(0, "57", 0.0, "cloud")], None, 0.0)
    assert found is not None
    assert found.chance == pytest.approx(0.5, abs=0.01)


def test_more_texts_than_could_be_are_no_harm() -> None:
    rule = Belief(others=3)
    said = [entry(frame, f"text {frame}", 0.05) for frame in range(200)]
    found = rule.standing(said, None, 40.0)
    assert found is not None
    assert 0 < found.chance <= 1


@pytest.mark.parametrize("wrong", [{"change": 0.0}, {"sharpness": -1.0}, {"others": 1.0}])
def test_a_belief_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        Belief(**wrong)


def test_the_newest_that_counts_stands_where_the_frames_own_is_unsure() -> None:
    rule = Newest(sure=0.1, own=0.02, cloud=0.2)
    earlier = [entry(0, "75", SURE), entry(1, "57", 0.15, "cloud")]
    assert all(map(rule.counts, earlier))
    assert not rule.counts(entry(1, "57", 0.15))
    for doubt, expected in ((0.1, "own"), (UNSURE, "57")):
        found = rule.standing(earlier, entry(2, "own", doubt), 0.4)
        assert found is not None
        assert found.entry.text == expected
    assert Newest(cloud=None).counts(entry(0, "75", 9.0, "cloud"))
