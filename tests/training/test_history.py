"""Questions with history: the answer is the picture's where it can be seen, the earlier one elsewhere."""

from __future__ import annotations

import re

import numpy as np
import pytest

from secondlook.benchmarks.signs.questions import Question, all_questions
from secondlook.benchmarks.signs.scene import COLOURS, Scene, sample_scene, scene_generator
from training.history import READABLE, another, recalling, shrunk, unanswerable, with_history

LINE = re.compile(r"^(?P<question>.+\?|.+\.) \((?P<age>\d+\.\d) s ago: (?P<answer>\d\d|yes|no)\)$")


def scenes(count: int) -> list[Scene]:
    drawn = (sample_scene(scene_generator("train", 5, index)) for index in range(count))
    return [scene for scene in drawn if scene.signs]


def test_the_line_stands_behind_the_question() -> None:
    question = Question("read", "What number is on the red sign?", "75", None)
    asked = with_history(question, 0.84, "57")
    assert asked.text == "What number is on the red sign? (0.8 s ago: 57)"
    assert asked.answer == "75"


def test_what_is_told_before_is_often_right_and_never_is_the_answer_changed() -> None:
    rng, right = np.random.default_rng(1), dict[str, list[bool]]()
    for scene in scenes(150):
        readable = [sign for sign in scene.signs if scene.global_digit_height(sign) >= READABLE]
        questions = all_questions(scene)
        plain = {question.text: question for kind in questions.values() for question in kind}
        for asked in recalling(questions, readable, rng):
            found = LINE.match(asked.text)
            assert found is not None
            kind: str = asked.type
            if kind == "read":
                seen = "readable" if asked.sign in readable else "unreadable"
                kind = "absent" if asked.sign is None else seen
            if kind != "absent":
                assert plain[found["question"]].answer == asked.answer
            right.setdefault(kind, []).append(found["answer"] == asked.answer)
    assert all(right["absent"])
    assert np.mean(right["unreadable"]) == pytest.approx(0.7, abs=0.1)
    for kind in ("readable", "exists"):
        assert np.mean(right[kind]) == pytest.approx(0.5, abs=0.15)


def test_unanswerable_questions_are_about_signs_that_are_not_there() -> None:
    rng = np.random.default_rng(2)
    for scene in scenes(20):
        there = {sign.colour for sign in scene.signs}
        asked = unanswerable(all_questions(scene), rng)
        assert len(asked) == len(COLOURS) - len(there)
        assert not any(colour in question.text for question in asked for colour in there)


def test_another_number_is_another() -> None:
    rng = np.random.default_rng(3)
    assert all(number != another(number, rng) for number in range(10, 100) for _ in range(20))
    assert {len(str(another(10, rng))) for _ in range(100)} == {2}


def test_signs_shrink_where_they_are() -> None:
    rng, smaller = np.random.default_rng(4), 0
    for scene in scenes(100):
        for before, after in zip(scene.signs, shrunk(scene, rng).signs, strict=True):
            assert (before.x, before.y, before.colour, before.number) == (
                after.x,
                after.y,
                after.colour,
                after.number,
            )
            if after.digit_height != before.digit_height:
                smaller += 1
                assert 3.6 <= scene.global_digit_height(after) < min(13, scene.global_digit_height(before))
    assert smaller > 20
