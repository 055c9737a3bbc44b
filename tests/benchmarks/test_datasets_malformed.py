"""Files that are missing or wrong: what was looked for, where to get it, and which record is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.official_files import (
    WRITERS,
    write_json,
    write_lines,
    write_pope,
    write_textvqa,
    write_vstar,
)
from secondlook.benchmarks.datasets.official import LOADERS, load_textvqa
from secondlook.benchmarks.datasets.question import MalformedDataError, MissingDataError

FILES = {
    "textvqa": "TextVQA_0.5.1_val.json",
    "pope": "coco_pope_popular.json",
    "aokvqa": "aokvqa_v1p0_val.json",
    "gqa": "testdev_balanced_questions.json",
    "vqav2": "v2_mscoco_val2014_annotations.json",
    "vstar": "direct_attributes/sa_4690.json",
}
SOURCES = {
    "textvqa": "https://dl.fbaipublicfiles.com/textvqa/data/TextVQA_0.5.1_val.json",
    "pope": "https://github.com/AoiDragon/POPE",
    "aokvqa": "https://prior-datasets.s3.us-east-2.amazonaws.com/aokvqa/aokvqa_v1p0.tar.gz",
    "gqa": "https://downloads.cs.stanford.edu/nlp/data/gqa/questions1.2.zip",
    "vqav2": "https://visualqa.org/download.html",
    "vstar": "https://huggingface.co/datasets/craigwu/vstar_bench",
}
PICTURES = {
    "textvqa": ("train_images", "003a8ae2ef43b901.jpg", "TextVQA_0.5.1_val.json, record 1"),
    "pope": ("val2014", "COCO_val2014_000000310196.jpg", "coco_pope_random.json, line 1"),
    "aokvqa": ("val2017", "000000461751.jpg", "aokvqa_v1p0_val.json, record 1"),
    "gqa": ("images", "n161313.jpg", "testdev_balanced_questions.json, record 1"),
    "vqav2": ("val2014", "COCO_val2014_000000262148.jpg", "val2014_questions.json, record 1"),
    "vstar": ("", "direct_attributes/sa_4690.jpg", "sa_4690.json"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_with_where_to_get_it(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path) / FILES[name]
    path.unlink()
    with pytest.raises(MissingDataError) as caught:
        LOADERS[name](tmp_path)
    assert f"there is no {path.name} in {path.parent}; get it from {SOURCES[name]}" in str(caught.value)


@pytest.mark.parametrize("name", PICTURES)
def test_missing_pictures_are_counted_and_one_is_named(name: str, tmp_path: Path) -> None:
    folder, picture, asked_by = PICTURES[name]
    (WRITERS[name](tmp_path) / folder / picture).unlink()
    with pytest.raises(MissingDataError) as caught:
        LOADERS[name](tmp_path)
    message = str(caught.value)
    assert f"1 of 2 pictures are missing, such as {picture} in {tmp_path / folder}" in message
    assert asked_by in message
    assert "get them from http" in message
    assert "--images" in message


def test_a_file_that_cannot_be_read_is_missing(tmp_path: Path) -> None:
    (tmp_path / "aokvqa_v1p0_val.json").mkdir()
    with pytest.raises(
        MissingDataError, match=r"cannot read .*aokvqa_v1p0_val\.json: Is a directory; get it"
    ):
        LOADERS["aokvqa"](tmp_path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b"[1, 2", b"no"])
def test_what_is_not_json_is_said_to_be_none(name: str, content: bytes, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path) / FILES[name]
    path.write_bytes(content)
    if name == "pope" and not content:
        assert LOADERS[name](tmp_path).settings["questions"] == 8
        return
    with pytest.raises(MalformedDataError, match="is not JSON") as caught:
        LOADERS[name](tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


Change = Callable[[Any], Any]


def without(*places: int | str) -> Change:
    """The values without what is at this place."""

    def change(values: Any) -> Any:
        *way, last = places
        inner = values
        for place in way:
            inner = inner[place]
        del inner[last]
        return values

    return change


def having(value: object, *places: int | str) -> Change:
    """The values with `value` at this place."""

    def change(values: Any) -> Any:
        *way, last = places
        inner = values
        for place in way:
            inner = inner[place]
        inner[last] = value
        return values

    return change


NINE = [*["dakota"] * 9]
CASES: list[tuple[str, Change, str]] = [
    ("textvqa", lambda _: [], "should be a JSON object, not []"),
    ("textvqa", without("data"), "'data' should be a JSON list, not None"),
    ("textvqa", having({}, "data"), ": 'data' should be a JSON list, not {}"),
    ("textvqa", having(7, "data", 1), ", record 2: should be a JSON object, not 7"),
    ("textvqa", without("data", 1, "question"), ", record 2 has no 'question'"),
    (
        "textvqa",
        having(" ", "data", 2, "question"),
        ", record 3: 'question' should match pattern '\\S', not ' '",
    ),
    (
        "textvqa",
        having(True, "data", 0, "question_id"),
        ", record 1: 'question_id' should be a whole number or",
    ),
    (
        "textvqa",
        having(NINE, "data", 1, "answers"),
        ", record 2: 'answers' should have at least 10 items, not ['",
    ),
    (
        "textvqa",
        having([1] * 10, "data", 1, "answers"),
        ", record 2: 'answers.0' should be a valid string, not 1",
    ),
    (
        "textvqa",
        having(34602, "data", 1, "question_id"),
        ", record 2: there is another question 34602 before",
    ),
    ("textvqa", having([], "data"), "the data set's files hold no question"),
    ("aokvqa", lambda _: {}, "should be a JSON list, not {}"),
    ("aokvqa", having("61", 1, "image_id"), ", record 2: 'image_id' should be a valid integer, not '61'"),
    (
        "aokvqa",
        having("no", 0, "difficult_direct_answer"),
        ", record 1: 'difficult_direct_answer' should be a valid boolean, not 'no'",
    ),
    (
        "aokvqa",
        having(4, 1, "correct_choice_idx"),
        ", record 2: 'correct_choice_idx' should be less than or equal to 3, not 4",
    ),
    (
        "aokvqa",
        having(["a"] * 3, 0, "choices"),
        ", record 1: 'choices' should have at least 4 items, not ['a', 'a', 'a']",
    ),
    (
        "aokvqa",
        without(0, "direct_answers"),
        ", record 1: 'direct_answers' should be a list of 10 texts, not None",
    ),
    ("gqa", having([], "201640614"), ", record 2 (201640614): should be a JSON object, not []"),
    ("gqa", without("201640614", "answer"), ", record 2 (201640614) has no 'answer'"),
    (
        "gqa",
        having("query", "201307251", "types"),
        ", record 1 (201307251): 'types' should be a JSON object, not 'query'",
    ),
    (
        "vqav2",
        without("annotations", 1),
        "val2014_questions.json, record 2: 'question_id' should be a question",
    ),
    (
        "vqav2",
        having(3, "annotations", 2, "answers", 4, "answer"),
        ", record 3: 'answers.4.answer' should be a valid string, not 3",
    ),
    (
        "vqav2",
        without("annotations", 2, "answers", 4),
        ", record 3: 'answers' should have at least 10 items, not ",
    ),
    (
        "vqav2",
        without("annotations", 0, "answer_type"),
        ", record 1 has no 'answer_type'",
    ),
    ("vstar", without("bbox"), "sa_4690.json has no 'bbox'"),
    ("vstar", having([], "bbox"), "sa_4690.json: 'bbox' should have a box for each target_object, not []"),
    (
        "vstar",
        having([[1, 2, 3]], "bbox"),
        "sa_4690.json has no 'bbox.0.3'",
    ),
    (
        "vstar",
        having([[1, 2, 3, 0]], "bbox"),
        "'bbox.0.3' should be greater than 0, not 0",
    ),
    (
        "vstar",
        having([[1, 2, "3", 4]], "bbox"),
        "'bbox.0.2' should be a valid number, not '3'",
    ),
    ("vstar", having(["one"], "options"), "'options' should have at least 2 items, not ['one']"),
]


@pytest.mark.parametrize(("name", "change", "message"), CASES, ids=[f"{c[0]} {c[2][:40]}" for c in CASES])
def test_a_wrong_record_is_named_with_its_field(
    name: str, change: Change, message: str, tmp_path: Path
) -> None:
    path = WRITERS[name](tmp_path) / FILES[name]
    write_json(path, change(json.loads(path.read_text(encoding="utf-8"))))
    with pytest.raises(MalformedDataError) as caught:
        LOADERS[name](tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (having("maybe", 1, "label"), ", line 2: 'label' should be 'yes' or 'no', not 'maybe'"),
        (without(2, "image"), ", line 3 has no 'image'"),
        (having(1, 3, "question_id"), ", line 4: there is another question popular/1 before"),
        (having([], 3), ", line 4: should be a JSON object, not []"),
    ],
)
def test_a_wrong_line_is_named_with_its_field(change: Change, message: str, tmp_path: Path) -> None:
    path = write_pope(tmp_path) / FILES["pope"]
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    write_lines(path, change(lines))
    with pytest.raises(MalformedDataError) as caught:
        LOADERS["pope"](tmp_path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = write_pope(tmp_path) / FILES["pope"]
    path.write_text(path.read_text(encoding="utf-8")[:-10], encoding="utf-8")
    with pytest.raises(MalformedDataError, match=r"coco_pope_popular\.json, line 4 is not JSON"):
        LOADERS["pope"](tmp_path)


def test_a_picture_without_ocr_tokens_is_named(tmp_path: Path) -> None:
    write_json(write_textvqa(tmp_path) / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": []})
    with pytest.raises(
        MalformedDataError, match=r"record 1: 'image_id' should be a picture of TextVQA_Rosetta"
    ):
        load_textvqa(tmp_path, ocr=True)
    assert load_textvqa(tmp_path).settings["questions"] == 3


def test_missing_ocr_tokens_and_boxes_are_named_with_where_to_get_them(tmp_path: Path) -> None:
    (write_textvqa(tmp_path) / "TextVQA_Rosetta_OCR_v0.2_val.json").unlink()
    with pytest.raises(
        MissingDataError, match=r"https://dl\.fbaipublicfiles\.com/textvqa/data/TextVQA_Rosetta"
    ):
        load_textvqa(tmp_path, ocr=True)
    with pytest.raises(MissingDataError, match=r"no none\.jsonl in .*TextVQA_GT_bbox"):
        load_textvqa(tmp_path, boxes=tmp_path / "none.jsonl")


def test_a_folder_or_a_description_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"no folder direct_attributes in .*craigwu/vstar_bench"):
        LOADERS["vstar"](tmp_path)
    (write_vstar(tmp_path) / "relative_position" / "sa_11023.json").unlink()
    with pytest.raises(MissingDataError, match=r"no sa_11023\.json in .*relative_position; get it from"):
        LOADERS["vstar"](tmp_path)
