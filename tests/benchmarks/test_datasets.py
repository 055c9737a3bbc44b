"""The loaders on small files in the official layouts: what is asked, what is right, and where."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.official_files import (
    AOKVQA,
    POPE_PICTURES,
    TEXTVQA,
    VSTAR,
    WRITERS,
    a_jpeg,
    pope_lines,
    write_aokvqa,
    write_gqa,
    write_pope,
    write_textvqa,
    write_vqav2,
    write_vstar,
)
from secondlook.benchmarks.datasets.official import LOADERS, load_textvqa
from secondlook.benchmarks.datasets.question import DataSet, Question, shuffled

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


def questions(data: DataSet) -> list[Question]:
    return [question for picture in data.pictures for question in picture.questions]


def test_textvqa_is_grouped_by_picture_and_asked_briefly(tmp_path: Path) -> None:
    data = LOADERS["textvqa"](write_textvqa(tmp_path))
    assert [[question.id for question in picture.questions] for picture in data.pictures] == [
        ["34602", "34604"],
        ["34603"],
    ]
    assert [picture.index for picture in data.pictures] == [0, 1]
    first = data.pictures[0].questions[0]
    assert first.asked() == f"what is the brand of this camera?\n{SHORT}"
    assert (first.truth, first.kind, first.boxes) == ("dakota digital", "text", ())
    assert first.answers == tuple(TEXTVQA[0]["answers"])  # type: ignore[arg-type]
    assert [first.score(answer) for answer in ("Dakota Digital.", "dakota", "canon")] == [1.0, 0.3, 0.0]
    assert data.pictures[1].source.read() == a_jpeg(sum(b"0054c91397f2fe05.jpg"))
    assert str(data.pictures[1].source) == str(tmp_path / "train_images" / "0054c91397f2fe05.jpg")


def test_textvqa_with_ocr_tokens_is_another_data_set(tmp_path: Path) -> None:
    plain, data = load_textvqa(write_textvqa(tmp_path)), load_textvqa(tmp_path, ocr=True)
    asked = {question.id: question.asked() for question in questions(data)}
    assert asked == {
        "34602": f"what is the brand of this camera?\nReference OCR token: DAKOTA, DIGITAL, 12\n{SHORT}",
        "34603": f"what does the small white text spell?\nReference OCR token: \n{SHORT}",
        "34604": f"what number is on the camera?\nReference OCR token: DAKOTA, DIGITAL, 12\n{SHORT}",
    }
    assert (plain.settings["ocr"], data.settings["ocr"]) == (False, True)
    assert list(data.settings["files"]) == ["TextVQA_0.5.1_val.json", "TextVQA_Rosetta_OCR_v0.2_val.json"]
    assert list(plain.settings["files"]) == ["TextVQA_0.5.1_val.json"]


def test_textvqa_takes_published_boxes(tmp_path: Path) -> None:
    data = load_textvqa(write_textvqa(tmp_path), boxes=tmp_path / "boxes.jsonl")
    boxes = {question.id: question.boxes for question in questions(data)}
    assert boxes == {"34602": ((20, 10, 80, 40),), "34603": (), "34604": ()}
    assert "boxes.jsonl" in data.settings["files"]


def test_pope_has_three_kinds_of_questions_about_the_same_pictures(tmp_path: Path) -> None:
    data = LOADERS["pope"](write_pope(tmp_path))
    assert [Path(str(picture.source)).name for picture in data.pictures] == list(POPE_PICTURES)
    assert [question.id for question in data.pictures[1].questions] == [
        "random/3",
        "random/4",
        "popular/3",
        "popular/4",
        "adversarial/3",
        "adversarial/4",
    ]
    yes, no = data.pictures[0].questions[2:4]
    assert (yes.kind, yes.truth, no.truth) == ("popular", "yes", "no")
    assert yes.asked() == f"Is there a yes person in the image?\n{SHORT}"
    assert [yes.score(answer) for answer in ("Yes", "No")] == [1.0, 0.0]
    assert [no.score(answer) for answer in ("Yes", "No")] == [0.0, 1.0]


def test_aokvqa_asks_for_direct_answers_that_are_not_difficult_and_for_every_choice(tmp_path: Path) -> None:
    direct, choice, difficult = questions(LOADERS["aokvqa"](write_aokvqa(tmp_path)))
    assert [question.kind for question in (direct, choice, difficult)] == [
        "direct answer",
        "multiple choice",
        "multiple choice",
    ]
    assert direct.asked() == f"What is in the motorcyclist's mouth?\n{SHORT}"
    assert direct.truth == "cigarette"
    assert [direct.score(answer) for answer in ("Cigarette.", "lollipop", "food")] == [1.0, 1 / 3, 0.0]
    options = "A. toothpick\nB. food\nC. popsicle stick\nD. cigarette"
    assert choice.asked() == f"What is in the motorcyclist's mouth?\n{options}\n{LETTER}"
    assert [choice.score(answer) for answer in ("D", "cigarette", "A", "smoke")] == [1.0, 1.0, 0.0, 0.0]
    assert (choice.truth, choice.answers) == ("D. cigarette", ("cigarette",))
    assert difficult.id == f"{AOKVQA[1]['question_id']}/choice"


def test_gqa_is_told_apart_by_structure(tmp_path: Path) -> None:
    verify, query = questions(LOADERS["gqa"](write_gqa(tmp_path)))
    assert (verify.id, verify.kind, verify.truth) == ("201307251", "verify", "no")
    assert (query.id, query.kind, query.truth) == ("201640614", "query", "woman")
    assert query.asked() == f"Who is wearing the dress?\n{SHORT}"
    assert [query.score(answer) for answer in ("Woman.", "women")] == [1.0, 0.0]


def test_gqa_without_types_has_questions_of_one_kind(tmp_path: Path) -> None:
    path = write_gqa(tmp_path) / "testdev_balanced_questions.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    plain = {name: {k: v for k, v in one.items() if k != "types"} for name, one in values.items()}
    path.write_text(json.dumps(plain), encoding="utf-8")
    assert {question.kind for question in questions(LOADERS["gqa"](tmp_path))} == {"question"}


def test_vqav2_joins_questions_and_annotations(tmp_path: Path) -> None:
    data = LOADERS["vqav2"](write_vqav2(tmp_path))
    where, board, bowls = questions(data)
    assert [len(picture.questions) for picture in data.pictures] == [2, 1]
    assert [question.kind for question in (where, board, bowls)] == ["other", "yes/no", "number"]
    assert where.asked() == f"Where is he looking?\n{SHORT}"
    assert (where.truth, board.truth, bowls.truth) == ("down", "yes", "2")
    assert [bowls.score(answer) for answer in ("two", "3")] == [1.0, 0.0]
    assert [board.score(answer) for answer in ("yes", "Yes")] == [1.0, 0.0]


def test_vstar_shuffles_options_by_a_fixed_seed_and_knows_its_boxes(tmp_path: Path) -> None:
    data = LOADERS["vstar"](write_vstar(tmp_path))
    for question in questions(data):
        given = VSTAR[question.id]["options"]
        assert sorted(question.options) == sorted(given)
        assert question.options == tuple(given[place] for place in shuffled(len(given), 0, question.id))
        letter = "ABCD"[question.options.index(given[0])]  # type: ignore[arg-type]
        assert question.truth == f"{letter}. {given[0]}"
        assert question.score(letter) == question.score(str(given[0])) == 1.0
        assert question.score("ABCD".replace(letter, "")[0]) == 0.0
        lines = question.asked().splitlines()
        assert lines[0] == VSTAR[question.id]["question"]
        assert lines[1:-1] == [
            f"{name}. {text}" for name, text in zip("ABCD", question.options, strict=False)
        ]
        assert lines[-1] == LETTER
    glove, motorcycle = questions(data)
    assert (glove.kind, glove.boxes) == ("direct_attributes", ((40, 30, 60, 40),))
    assert motorcycle.boxes == ((10, 20, 40, 60), (100.5, 60, 120.5, 75))


def test_the_first_option_comes_to_stand_everywhere() -> None:
    counts = [0] * 4
    for number in range(400):
        order = shuffled(4, 0, f"direct_attributes/sa_{number}")
        assert sorted(order) == [0, 1, 2, 3]
        counts[order.index(0)] += 1
    assert min(counts) > 70


@pytest.mark.parametrize("name", LOADERS)
def test_settings_tell_the_files_apart(name: str, tmp_path: Path) -> None:
    data = LOADERS[name](WRITERS[name](tmp_path))
    assert data.name == name
    assert data.settings["pictures"] == len(data.pictures)
    assert data.settings["questions"] == len(questions(data))
    assert data.settings["instructions"] == sorted({question.instruction for question in questions(data)})
    assert json.loads(json.dumps(data.settings)) == data.settings
    for file, digest in data.settings["files"].items():
        if file != "*.json":
            assert digest == hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()[:16]


@pytest.mark.parametrize("name", LOADERS)
def test_pictures_may_be_elsewhere(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / "data")
    inside = {"textvqa": "train_images", "aokvqa": "val2017", "gqa": "images", "vstar": ""}.get(
        name, "val2014"
    )
    folder = tmp_path / "pictures"
    if name == "vstar":
        for path in (tmp_path / "data").rglob("*.jpg"):
            moved = folder / path.relative_to(tmp_path / "data")
            moved.parent.mkdir(parents=True)
            path.rename(moved)
    else:
        (tmp_path / "data" / inside).rename(folder)
    assert all(picture.source.read() for picture in LOADERS[name](tmp_path / "data", folder).pictures)


@pytest.mark.parametrize("name", LOADERS)
def test_pictures_with_their_questions_can_travel(name: str, tmp_path: Path) -> None:
    data = LOADERS[name](WRITERS[name](tmp_path))
    assert pickle.loads(pickle.dumps(data.pictures)) == data.pictures


def test_a_model_that_gives_the_instruction_itself_is_not_given_it_twice(tmp_path: Path) -> None:
    question = questions(load_textvqa(write_textvqa(tmp_path)))[0]
    assert question.asked(SHORT) == "what is the brand of this camera?"
    assert question.asked(brief=True) == "what is the brand of this camera?"
    letter = replace(question, instruction=LETTER)
    assert letter.asked(brief=True) == f"what is the brand of this camera?\n{LETTER}"
    assert question.asked("Be brief.") == f"what is the brand of this camera?\n{SHORT}"


def test_the_first_pictures_are_a_data_set_too(tmp_path: Path) -> None:
    data = LOADERS["pope"](write_pope(tmp_path))
    assert data.first(1).pictures == data.pictures[:1]
    assert data.first(1).settings == data.settings
    assert data.first(None) is data


def test_empty_lines_do_not_count(tmp_path: Path) -> None:
    path = write_pope(tmp_path) / "coco_pope_random.json"
    lines = [json.dumps(line) for line in pope_lines()]
    path.write_text("\r\n\n".join(lines) + "\n\n", encoding="utf-8")
    assert len(questions(LOADERS["pope"](tmp_path))) == 12
