"""Files that are nearly right: half characters, joins that do not fit, hidden files, other line ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.official_files import (
    WRITERS,
    write_json,
    write_lines,
    write_pictures,
    write_pope,
    write_textvqa,
    write_vstar,
)
from benchmarks.test_datasets_malformed import FILES, Change, having
from secondlook.benchmarks.datasets.official import LOADERS, load_textvqa
from secondlook.benchmarks.datasets.question import MalformedDataError, MissingDataError

HALF = "what is \ud83d here?"


@pytest.mark.parametrize(
    ("name", "change", "place"),
    [
        ("textvqa", having(HALF, "data", 1, "question"), "record 2: 'question'"),
        ("textvqa", having(HALF, "data", 0, "image_id"), "record 1: 'image_id'"),
        ("textvqa", having(HALF, "data", 2, "answers", 4), "record 3: 'answers'"),
        ("aokvqa", having(HALF, 1, "choices", 3), "record 2: 'choices'"),
        ("gqa", having(HALF, "201640614", "types", "structural"), "record 2 (201640614): 'types.structural'"),
        ("gqa", lambda values: {**values, HALF: values["201307251"]}, "record 3: 'what is"),
        ("vqav2", having(HALF, "annotations", 0, "answers", 1, "answer"), "record 1: 'answers.1.answer'"),
        ("vstar", having(HALF, "options", 0), "sa_4690.json: 'options'"),
        ("vstar", having(HALF, "target_object", 0), "sa_4690.json: 'target_object'"),
    ],
)
def test_half_a_character_names_its_record(name: str, change: Change, place: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path) / FILES[name]
    write_json(path, change(json.loads(path.read_text(encoding="utf-8"))))
    with pytest.raises(MalformedDataError) as caught:
        LOADERS[name](tmp_path)
    assert f"{path}"[-20:] in str(caught.value)
    assert place in str(caught.value)
    str(caught.value).encode()


def test_half_a_character_where_nothing_is_asked_for_is_no_fault(tmp_path: Path) -> None:
    path = write_textvqa(tmp_path) / FILES["textvqa"]
    values = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, having(HALF, "data", 0, "set_name")(values))
    assert load_textvqa(tmp_path).settings["questions"] == 3


def test_an_annotation_of_another_picture_is_named(tmp_path: Path) -> None:
    path = WRITERS["vqav2"](tmp_path) / FILES["vqav2"]
    values = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, having(99, "annotations", 1, "image_id")(values))
    with pytest.raises(MalformedDataError) as caught:
        LOADERS["vqav2"](tmp_path)
    assert str(caught.value) == (
        f"{path}, record 2: 'image_id' should be 262148, as question 262148001 has it, not 99"
    )


def test_an_annotation_without_a_question_is_named(tmp_path: Path) -> None:
    path = WRITERS["vqav2"](tmp_path) / FILES["vqav2"]
    values = json.loads(path.read_text(encoding="utf-8"))
    values["annotations"].append({**values["annotations"][1], "question_id": 99})
    write_json(path, values)
    with pytest.raises(MalformedDataError) as caught:
        LOADERS["vqav2"](tmp_path)
    questions = "v2_OpenEnded_mscoco_val2014_questions.json"
    assert (
        str(caught.value) == f"{path}, record 4: 'question_id' should be a question of {questions}, not '99'"
    )


@pytest.mark.parametrize("name", ["/etc/hostname", "../secret", "a/../../secret", "//secret", ".."])
def test_no_picture_is_outside_the_data_sets_folder(name: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, ["secret", "secret.jpg"])
    pope = write_pope(tmp_path / "pope") / "coco_pope_random.json"
    lines = [json.loads(line) for line in pope.read_text(encoding="utf-8").splitlines()]
    write_lines(pope, having(name, 1, "image")(lines))
    textvqa = write_textvqa(tmp_path / "textvqa") / FILES["textvqa"]
    write_json(textvqa, having(name, "data", 1, "image_id")(json.loads(textvqa.read_text(encoding="utf-8"))))
    gqa = WRITERS["gqa"](tmp_path / "gqa") / FILES["gqa"]
    write_json(gqa, having(name, "201640614", "imageId")(json.loads(gqa.read_text(encoding="utf-8"))))
    places = {"pope": f"{pope}, line 2", "textvqa": f"{textvqa}, record 2", "gqa": f"{gqa}, record 2 (20164"}
    for data_set, place in places.items():
        if name == ".." and data_set != "pope":
            continue  # with its ending the name of a file
        with pytest.raises(MalformedDataError, match=r"should be in .*: neither an absolute name") as caught:
            LOADERS[data_set](tmp_path / data_set)
        assert str(caught.value).startswith(place)


def test_links_that_the_user_made_lead_anywhere(tmp_path: Path) -> None:
    write_pope(tmp_path / "pope")
    (tmp_path / "pope" / "val2014").rename(tmp_path / "elsewhere")
    (tmp_path / "pope" / "val2014").symlink_to(tmp_path / "elsewhere")
    assert LOADERS["pope"](tmp_path / "pope").pictures[0].source.read()


@pytest.mark.parametrize("name", FILES)
def test_pointers_of_git_lfs_are_named(name: str, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    WRITERS[name](tmp_path)
    pictures = LOADERS[name](tmp_path).pictures
    picture = tmp_path / str(pictures[0].source)
    picture.write_bytes(pointer)
    with pytest.raises(MissingDataError) as missing:
        LOADERS[name](tmp_path)
    count = len(pictures)
    assert str(missing.value).startswith(f"1 of {count} pictures are only pointers of Git LFS, such as ")
    assert f"{picture.name} in {tmp_path}" in str(missing.value)
    (tmp_path / FILES[name]).write_bytes(pointer)
    with pytest.raises(MalformedDataError) as malformed:
        LOADERS[name](tmp_path)
    path = tmp_path / FILES[name]
    assert str(malformed.value) == (
        f"{path} is only a pointer of Git LFS, not the file itself; run git lfs pull in the folder"
    )


def test_what_is_joined_is_there_once(tmp_path: Path) -> None:
    path = WRITERS["vqav2"](tmp_path / "vqav2") / FILES["vqav2"]
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


def test_a_name_that_is_there_twice_is_no_json(tmp_path: Path) -> None:
    path = WRITERS["gqa"](tmp_path) / FILES["gqa"]
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"201640614": {', '"201307251": {', 1), encoding="utf-8")
    with pytest.raises(MalformedDataError, match="is not JSON: an object has '201307251' twice"):
        LOADERS["gqa"](tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"data": ' * 100_000])
def test_what_is_nested_without_end_is_no_json(content: str, tmp_path: Path) -> None:
    path = write_textvqa(tmp_path) / FILES["textvqa"]
    path.write_text(content, encoding="utf-8")
    with pytest.raises(MalformedDataError, match="is not JSON"):
        load_textvqa(tmp_path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1e999"])
def test_a_box_is_of_finite_numbers(number: str, tmp_path: Path) -> None:
    path = write_textvqa(tmp_path) / "boxes.jsonl"
    path.write_text(f'{{"dataset_id": 34602, "bbox": [{number}, 1, 2, 3]}}\n', encoding="utf-8")
    with pytest.raises(MalformedDataError, match=r"line 1: 'bbox\.0' should be a finite number"):
        load_textvqa(tmp_path, boxes=path)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_no_file_has_is_a_missing_picture(name: str, tmp_path: Path) -> None:
    path = write_textvqa(tmp_path) / FILES["textvqa"]
    values = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, having(name, "data", 0, "image_id")(values))
    with pytest.raises(MissingDataError, match="1 of 3 pictures are missing"):
        load_textvqa(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_hidden_files_beside_others_are_passed_over(name: str, tmp_path: Path) -> None:
    before = LOADERS[name](WRITERS[name](tmp_path))
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    assert LOADERS[name](tmp_path) == before


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    for name in FILES:
        before = [picture.questions for picture in LOADERS[name](WRITERS[name](tmp_path / name)).pictures]
        for path in (tmp_path / name).rglob("*.json"):
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
        assert [picture.questions for picture in LOADERS[name](tmp_path / name).pictures] == before


def test_a_label_that_is_none_names_its_line(tmp_path: Path) -> None:
    path = write_pope(tmp_path) / "coco_pope_random.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"label": "no"', '"label": "unknown"', 1), encoding="utf-8")
    with pytest.raises(MalformedDataError, match=r"line 2: 'label' should be 'yes' or 'no', not 'unknown'"):
        LOADERS["pope"](tmp_path)
