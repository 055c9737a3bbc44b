"""Files that belong together: what one says of a question and another of it, too, is compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.official_files import (
    WRITERS,
    write_json,
    write_lines,
    write_pictures,
    write_textvqa,
    write_vstar,
)
from secondlook.benchmarks.datasets.official import LOADERS, load_textvqa
from secondlook.benchmarks.datasets.question import MalformedDataError

ANNOTATIONS = "v2_mscoco_val2014_annotations.json"


def test_an_annotation_of_another_picture_is_named(tmp_path: Path) -> None:
    path = WRITERS["vqav2"](tmp_path) / ANNOTATIONS
    values = json.loads(path.read_text(encoding="utf-8"))
    values["annotations"][1]["image_id"] = 99
    write_json(path, values)
    with pytest.raises(MalformedDataError) as caught:
        LOADERS["vqav2"](tmp_path)
    assert str(caught.value) == (
        f"{path}, record 2: 'image_id' should be 262148, as question 262148001 has it, not 99"
    )


def test_what_is_joined_is_there_once(tmp_path: Path) -> None:
    path = WRITERS["vqav2"](tmp_path / "vqav2") / ANNOTATIONS
    values = json.loads(path.read_text(encoding="utf-8"))
    values["annotations"].append({**values["annotations"][1], "answer_type": "other"})
    write_json(path, values)
    with pytest.raises(MalformedDataError, match=r"record 4: 'question_id' .* than that of record 2, not"):
        LOADERS["vqav2"](tmp_path / "vqav2")
    folder = write_textvqa(tmp_path / "textvqa")
    tokens = {"image_id": "003a8ae2ef43b901", "ocr_tokens": []}
    write_json(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": [tokens, tokens]})
    with pytest.raises(MalformedDataError, match=r"record 2: 'image_id' .* than that of record 1, not"):
        load_textvqa(folder, ocr=True)
    box = {"dataset_id": 34602, "bbox": [20, 10, 60, 30]}
    write_lines(folder / "boxes.jsonl", [box, {**box, "dataset_id": "34602"}])
    with pytest.raises(MalformedDataError, match=r"line 2: 'dataset_id' .* than that of line 1, not"):
        load_textvqa(folder, boxes=folder / "boxes.jsonl")
    write_pictures(write_vstar(tmp_path / "vstar"), ["direct_attributes/sa_4690.PNG"])
    with pytest.raises(
        MalformedDataError, match=r"sa_4690.PNG and .*sa_4690.jpg are pictures of one question"
    ):
        LOADERS["vstar"](tmp_path / "vstar")


def test_boxes_of_other_questions_are_refused(tmp_path: Path) -> None:
    path = write_textvqa(tmp_path) / "boxes.jsonl"
    write_lines(path, [{"dataset_id": 1, "bbox": [20, 10, 60, 30]}])
    with pytest.raises(MalformedDataError, match=r"line 1: 'dataset_id' should be a question of TextVQA"):
        load_textvqa(tmp_path, boxes=path)
