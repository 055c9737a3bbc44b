"""Questions: true answers for hand-made scenes, wordings and scoring."""

from __future__ import annotations

import pytest

from benchmarks.samples import a_scene, a_sign
from secondlook.benchmarks.signs.questions import WORDINGS, Question, all_questions, describe, is_correct
from secondlook.benchmarks.signs.scene import COLOURS, Sign
from secondlook.engine.models.prompts import GENERIC_QUESTION

RED, BLUE, GREEN = a_sign("red", 17, x=200), a_sign("blue", 90, x=600), a_sign("green", 35, x=900)


def test_reading_questions_ask_for_each_signs_number() -> None:
    questions = all_questions(a_scene(RED, BLUE))["read"]
    assert questions == [
        Question("read", "What number is on the red sign?", "17", RED),
        Question("read", "What number is on the blue sign?", "90", BLUE),
    ]


def test_every_colour_is_asked_for() -> None:
    questions = all_questions(a_scene(RED, GREEN))["exists"]
    answers = {question.text: (question.answer, question.sign) for question in questions}
    assert len(answers) == len(COLOURS)
    for colour in COLOURS:
        expected = {"red": ("yes", RED), "green": ("yes", GREEN)}.get(colour, ("no", None))
        assert answers[f"Is there a {colour} sign in the picture?"] == expected


@pytest.mark.parametrize(
    ("signs", "text"),
    [
        ([RED], "signs in red"),
        ([RED, BLUE], "signs in red and blue"),
        ([RED, BLUE, GREEN], "signs in red, blue and green"),
    ],
)
def test_a_description_names_the_colours_from_left_to_right(signs: list[Sign], text: str) -> None:
    scene = a_scene(*signs)
    assert describe(scene) == text
    assert all_questions(scene)["describe"] == [Question("describe", GENERIC_QUESTION, text, None)]


def test_wordings_change_the_question_and_never_the_answer() -> None:
    scene = a_scene(RED, BLUE)
    plain = all_questions(scene)
    for wording in range(7):
        worded = all_questions(scene, wording)
        for kind, questions in worded.items():
            assert [question.answer for question in questions] == [q.answer for q in plain[kind]]
            pattern = WORDINGS[kind][wording % len(WORDINGS[kind])]
            assert questions[0].text == pattern.format(colour="red")
            assert "{" not in questions[0].text


@pytest.mark.parametrize("answer", ["17", " 17", "17\n", "17.", " 17. "])
def test_space_and_a_final_period_do_not_matter(answer: str) -> None:
    assert is_correct(Question("read", "", "17", RED), answer)


@pytest.mark.parametrize("answer", ["", ".", "1", "71", "170", "17 17", "1 7", "17..", "seventeen"])
def test_any_other_number_is_wrong(answer: str) -> None:
    assert not is_correct(Question("read", "", "17", RED), answer)


@pytest.mark.parametrize(
    ("answer", "right"), [("Yes", True), ("YES.", True), ("no", False), ("yes no", False)]
)
def test_case_does_not_matter(answer: str, right: bool) -> None:
    assert is_correct(Question("exists", "", "yes", RED), answer) == right
