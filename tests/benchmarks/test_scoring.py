"""The scorers against the official scorers' outputs, and against their definitions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repository import ROOT
from secondlook.benchmarks.datasets.scoring import (
    as_submitted,
    choice_score,
    chosen_option,
    direct_answer_score,
    gqa_score,
    normalise_evalai,
    normalise_vqav2,
    pope_answer,
    pope_measures,
    pope_score,
    textvqa_score,
    vqav2_score,
)

GOLDEN: dict[str, list[dict[str, Any]]] = json.loads(
    (ROOT / "tests" / "golden" / "vqa_metric_cases.json").read_text(encoding="utf-8")
)
OPTIONS = ("red", "A bus", "the left side", "B")


def test_the_golden_cases_are_all_there() -> None:
    assert {name: len(cases) for name, cases in GOLDEN.items()} == {"normalise_evalai": 120, "accuracy": 100}


@pytest.mark.parametrize("case", GOLDEN["normalise_evalai"], ids=lambda case: repr(case["answer"]))
def test_normalisation_is_evalais(case: dict[str, Any]) -> None:
    assert normalise_evalai(case["answer"]) == case["normalised"]


@pytest.mark.parametrize("number", range(100))
def test_accuracies_are_the_official_scorers(number: int) -> None:
    case = GOLDEN["accuracy"][number]
    assert textvqa_score(case["prediction"], case["answers"]) == case["textvqa"]
    assert vqav2_score(case["prediction"], case["answers"]) == case["vqav2"]


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        ("couldntve", "couldntve"),  # two apostrophes forgotten: not in the official table
        ("couldn'tve", "couldn't've"),
        ("couldnt've", "couldn't've"),
        ("yalld've", "yalld've"),
        ("yall'd've", "y'all'd've"),
        ("twas oclock maam", "'twas o'clock ma'am"),
        ("somebody'd", "somebodyd"),
        ("somebodyd", "somebodyd"),
        ("wed well", "wed well"),
    ],
)
def test_contractions_are_those_of_the_table(answer: str, normalised: str) -> None:
    assert normalise_evalai(answer) == normalised


def test_the_scorers_slips_are_kept() -> None:
    assert normalise_evalai("3.") == "3"  # the look-behind for a digit never matches
    assert normalise_evalai("." * 40) == "." * 8  # the 32 of re.UNICODE is taken for a count
    assert normalise_vqav2("1,000 a;b") == "1000 ab"
    assert normalise_vqav2("1,,000") == "1 000"


def test_vqav2_leaves_unanimous_answers_alone() -> None:
    assert vqav2_score("the red", ["red"] * 10) == 0.0
    assert vqav2_score("the red", ["red"] * 9 + ["blue"]) == 1.0
    assert textvqa_score("the red", ["red"] * 10) == 1.0


@given(answers=st.lists(st.sampled_from("abcd"), min_size=10, max_size=10))
def test_the_soft_score_is_a_mean_over_those_left_out(answers: list[str]) -> None:
    words = [f"word {letter}x" for letter in answers]
    left_out = [words[:place] + words[place + 1 :] for place in range(10)]
    expected = sum(min(1, others.count(words[0]) / 3) for others in left_out) / 10
    assert textvqa_score(words[0], words) == pytest.approx(expected, abs=1e-12)
    if len(set(words)) > 1:
        assert vqav2_score(words[0], words) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("no, there is none", "no"),
        ("No, there is none", "no"),
        ("NO", "yes"),  # only these three words count
        ("There is not a dog", "no"),
        ("There isn't a dog", "yes"),
        ("Yes. There is no cat.", "yes"),  # before the first period
        ("nobody", "yes"),
        ("", "yes"),
        ("no\n", "yes"),
    ],
)
def test_an_answer_says_yes_or_no(answer: str, said: str) -> None:
    assert pope_answer(answer) == said
    assert pope_score(answer, [said]) == 1.0
    assert pope_score(answer, ["no" if said == "yes" else "yes"]) == 0.0


def test_popes_measures_are_those_of_the_four_counts() -> None:
    # 3 true positives, 1 false positive, 4 true negatives, 2 false negatives
    said = ["yes"] * 3 + ["yes"] + ["no"] * 4 + ["no"] * 2
    labels = ["yes"] * 3 + ["no"] + ["no"] * 4 + ["yes"] * 2
    found = pope_measures(said, labels)
    assert (found["accuracy"], found["precision"], found["recall"]) == (0.7, 0.75, 0.6)
    assert found["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert found["yes_ratio"] == 0.4


def test_popes_measures_without_any_yes_are_zero() -> None:
    found = pope_measures(["no", "no"], ["yes", "no"])
    assert [*found.values()] == [0.5, 0, 0, 0, 0]


@pytest.mark.parametrize(("said", "labels"), [([], []), (["yes"], []), (["yes"], ["no", "no"])])
def test_popes_measures_need_as_many_answers_as_labels(said: list[str], labels: list[str]) -> None:
    with pytest.raises(ValueError, match=f"{len(said)} and {len(labels)}"):
        pope_measures(said, labels)


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("A", 0),
        ("b.", 3),  # the text of the last option, before the letter of the second
        ("(B)", 1),
        ("C. the left side", 2),
        ("C: whatever", 2),
        ("red", 0),
        ("Red.", 0),
        ("a bus", 1),
        ("The left side", 2),
        ("D", 3),
        ("E", None),
        ("A red one", None),
        ("", None),
        ("left", None),
        ("É", None),
    ],
)
def test_an_option_is_chosen_by_its_text_or_its_letter(answer: str, option: int | None) -> None:
    assert chosen_option(answer, OPTIONS) == option
    assert [choice_score(answer, [right], OPTIONS) for right in OPTIONS] == [
        float(right == option) for right in range(4)
    ]


def test_direct_answers_count_up_to_three() -> None:
    answers = ["cat"] * 2 + ["dog"] * 3 + ["cow"] + ["hen"] * 4
    assert [direct_answer_score(word, answers) for word in ("cow", "cat", "dog", "hen", "Dog", "dog.")] == [
        1 / 3,
        2 / 3,
        1.0,
        1.0,
        1.0,
        1.0,
    ]


def test_gqa_takes_answers_in_any_case_and_with_a_period() -> None:
    assert [gqa_score(answer, ["no"]) for answer in ("no", "No.", " NO", "no..", "not", "no way")] == [
        1.0,
        1.0,
        1.0,
        0.0,
        0.0,
        0.0,
    ]
    assert as_submitted(" Dark Red. ") == "dark red"
