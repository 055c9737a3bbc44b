"""Evaluation with a small random checkpoint: records of signs, and the commands `secondlook eval …`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.official_files import WRITERS, write_pope, write_textvqa
from benchmarks.samples import KillsItsReader, smallest
from edge.support import square
from engine.checkpoints import GRID, IMAGE_SIZE, Variant, write_checkpoint
from secondlook.benchmarks.analysis.replay import Replay
from secondlook.benchmarks.datasets.question import AskedPicture
from secondlook.benchmarks.evaluation import asking, cli
from secondlook.benchmarks.evaluation.asking import WorkerError, ask_all
from secondlook.benchmarks.evaluation.options import Asking
from secondlook.benchmarks.run_log import LINE, LoggedLook, Record, read_log
from secondlook.benchmarks.signs.evaluation import SignsPicture, signs_data_set
from secondlook.benchmarks.signs.questions import is_correct
from secondlook.edge.geometry import Region
from secondlook.edge.imaging import open_picture
from secondlook.engine.cli import command_line, run
from secondlook.engine.errors import ModelNotFoundError
from secondlook.engine.method.policy import Policy

SEED = 3
INDICES = [*smallest("test", SEED, range(0, 80, 4), 1), *smallest("test", SEED, range(1, 80, 2), 2)]

VIEW = square(IMAGE_SIZE)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("evaluated"), Variant(seed=5, kv_heads=2)))


@pytest.fixture(scope="module")
def pictures() -> list[SignsPicture]:
    return [SignsPicture("test", SEED, index) for index in INDICES]


@pytest.fixture(scope="module")
def evaluated(folder: str) -> list[list[Record]]:
    return ask(folder, SEED, INDICES)


def ask(folder: str, seed: int, indices: list[int]) -> list[list[Record]]:
    pictures = signs_data_set("test", seed, 80).pictures
    return list(ask_all(Asking(folder), [pictures[index] for index in indices], processes=1))


def test_a_picture_is_a_function_of_split_seed_and_index(pictures: list[SignsPicture]) -> None:
    again = SignsPicture("test", SEED, INDICES[1])
    assert (again.scene, again.questions) == (pictures[1].scene, pictures[1].questions)
    assert again.read() == pictures[1].read()
    for other in (SignsPicture("calibration", SEED, INDICES[1]), SignsPicture("test", SEED + 1, INDICES[1])):
        assert other.scene != again.scene


def test_originals_are_jpeg_files_of_the_scenes_size(pictures: list[SignsPicture]) -> None:
    for picture in pictures:
        with Image.open(io.BytesIO(picture.read())) as image:
            assert image.format == "JPEG"
            assert image.size == (picture.scene.size.width, picture.scene.size.height)


def test_every_picture_is_read_and_every_fourth_asked_everything(pictures: list[SignsPicture]) -> None:
    kinds = [[question.type for question in picture.questions] for picture in pictures]
    assert kinds == [["read", "exists", "describe"], ["read"], ["read"]]
    for picture in pictures:
        assert picture.questions[0].sign in picture.scene.signs


def test_records_come_in_order_and_say_what_was_asked(
    evaluated: list[list[Record]], pictures: list[SignsPicture]
) -> None:
    for records, picture in zip(evaluated, pictures, strict=True):
        assert [record.index for record in records] == [picture.index] * len(picture.questions)
        for record, question in zip(records, picture.questions, strict=True):
            assert (record.type, record.question, record.truth) == (
                question.type,
                question.text,
                question.answer,
            )
            assert record.original_bytes == len(picture.read())
            assert record.original_pixels == picture.scene.size.pixels


def test_every_question_gets_a_second_look_at_a_region(
    evaluated: list[list[Record]], pictures: list[SignsPicture]
) -> None:
    for records, picture in zip(evaluated, pictures, strict=True):
        source = open_picture(picture.read())
        sent = source.global_image(VIEW)
        for record, question in zip(records, picture.questions, strict=True):
            assert record.second is not None
            assert record.region is not None
            region = Region(*record.region)
            assert region.within(picture.scene.size)
            sign = question.sign
            assert record.region_hit == (None if sign is None else region.contains(sign.x, sign.y))
            crop = source.local_image(region, VIEW)
            assert (record.first.bytes, record.first.pixels) == (len(sent.jpeg), IMAGE_SIZE * IMAGE_SIZE)
            assert (record.second.bytes, record.second.pixels) == (len(crop.jpeg), crop.size.pixels)
            for look in (record.first, record.second):
                assert look.visual_tokens == GRID * GRID
                assert look.score == float(is_correct(question, look.text))
                assert len(look.tokens) >= 1
            texts = [look.prompt_tokens - count * GRID * GRID for look, count in both(record)]
            assert 0 < texts[0] <= texts[1] < texts[0] + 10
            (box,) = record.boxes or (None,)
            assert (box is None) == (sign is None)
            if sign is not None:
                left, top, right, bottom = record.boxes[0]
                assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((sign.x, sign.y))
                assert (right - left) / (bottom - top) == pytest.approx(2.1 / 1.7)


def test_relative_attention_is_kept_of_the_first_pictures_only(
    folder: str, evaluated: list[list[Record]]
) -> None:
    for records in evaluated:
        for record in records:
            assert record.relevance is not None
            assert np.shape(record.relevance.rows()) == (GRID, GRID)
            assert np.max(record.relevance.rows()) == 255
            assert record.file == ""
    (later,) = smallest("test", SEED, range(101, 140, 2), 1)
    picture = signs_data_set("test", SEED, 140).pictures[later]
    ((record,),) = ask_all(Asking(folder), [picture], processes=1)
    assert record.relevance is None


def both(record: Record) -> list[tuple[LoggedLook, int]]:
    assert record.second is not None
    return [(record.first, 1), (record.second, 2)]


def test_the_data_set_is_the_pictures_with_their_questions(pictures: list[SignsPicture]) -> None:
    data = signs_data_set("test", SEED, 80)
    assert len(data.pictures) == 80
    for picture in pictures:
        asked = data.pictures[picture.index]
        assert asked.index == picture.index
        assert asked.source.read() == picture.read()
        assert [(question.text, question.truth) for question in asked.questions] == [
            (question.text, question.answer) for question in picture.questions
        ]


def test_neither_order_nor_company_changes_a_record(folder: str, evaluated: list[list[Record]]) -> None:
    backwards = ask(folder, SEED, INDICES[:0:-1])
    assert backwards == evaluated[:0:-1]


def test_another_seed_asks_about_other_pictures(folder: str, evaluated: list[list[Record]]) -> None:
    (other,) = ask(folder, SEED + 1, smallest("test", SEED + 1, range(1, 80, 2), 1))
    assert other[0].original_bytes not in {records[0].original_bytes for records in evaluated}


def test_records_survive_the_log_and_can_be_replayed(evaluated: list[list[Record]]) -> None:
    records = [record for picture in evaluated for record in picture]
    assert LINE.validate_json(LINE.dump_json(records)) == records
    outcome = Replay(records, Policy(0.0)).at(0.0)
    assert outcome.retransmission_rate == 1.0
    assert outcome.bytes > sum(record.first.bytes for record in records) / len(records)


def test_a_missing_model_is_an_error_before_any_picture(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        ask(str(tmp_path / "none"), SEED, INDICES)


def test_processes_run_only_so_far_ahead_of_what_is_logged(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, drawn = signs_data_set("test", SEED, 80).pictures[:12], list[int]()

    def pictures() -> Iterator[AskedPicture]:
        for one in asked:
            drawn.append(one.index)
            yield one

    # Threads stand for the processes: it is about when they are given work, not about what they answer.
    monkeypatch.setattr(asking, "ProcessPoolExecutor", lambda count, *_: ThreadPoolExecutor(count))
    monkeypatch.setattr(asking, "_ask_in_worker", lambda _asking, _room, one: one.index)
    found = ask_all(Asking(folder), pictures(), processes=2)
    assert (next(found), len(drawn)) == (0, 5)
    assert list(found) == list(range(1, 12))


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run(folder: str) -> None:
    pictures = signs_data_set("test", SEED, 80).pictures
    deadly = replace(pictures[INDICES[1]], source=KillsItsReader())
    found = ask_all(Asking(folder), [pictures[INDICES[0]], *[deadly] * 9], processes=2)
    with pytest.raises(WorkerError, match=r"was killed, perhaps for want of memory; .* fewer --processes"):
        list(found)


pytestmark = pytest.mark.usefixtures("one_thread", "_quiet")


@pytest.fixture
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "configure_logging", lambda _verbose: None)  # the root logger belongs to pytest


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("commanded"), Variant(seed=5, kv_heads=2)))


def status(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run(command_line(), ["eval", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def error(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert "Traceback" not in err
    return line


def test_a_run_over_pope_is_summed_up_with_its_own_measures(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "pope.jsonl"
    data = write_pope(tmp_path)
    options = ("--log", log, "--model", model, "--processes", 1, "--threshold", 1.0, "--json")
    assert status("pope", "--data", data, *options) == 0
    out, err = capsys.readouterr()
    assert "2/2" in err
    *lines, last = out.splitlines()
    report: dict[str, Any] = json.loads(last)
    assert lines[0].startswith("pope: 12 questions, with a threshold of 1 nats")
    assert (report["data"], report["count"], report["threshold"]) == ("pope", 12, 1.0)
    assert set(report["by_type"]) == set(report["pope"]) == {"random", "popular", "adversarial"}
    records = read_log(log).records
    assert report["accuracy_global"] == pytest.approx(sum(one.first.score for one in records) / 12)
    for kind, looks in report["pope"].items():
        assert looks["global image"]["accuracy"] == report["by_type"][kind]["accuracy_global"]
        assert looks["always two looks"]["accuracy"] == report["by_type"][kind]["accuracy_full"]
        assert looks["two looks"]["accuracy"] == report["by_type"][kind]["accuracy"]
    assert report["weights"] == read_log(log).header.settings["model"]["weights"]
    assert report["environment"]["torch"] == read_log(log).header.settings["versions"]["torch"]


def test_textvqa_has_options_of_its_own(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "ocr.jsonl"
    data = write_textvqa(tmp_path)
    options = ("--data", data, "--log", log, "--model", model, "--processes", 1, "--count", 1)
    assert status("textvqa", *options, "--ocr", "--boxes", data / "boxes.jsonl") == 0
    capsys.readouterr()
    first, second = read_log(log).records
    assert "Reference OCR token: DAKOTA" in first.question
    assert (first.boxes, second.boxes) == (((20, 10, 80, 40),), ())
    assert status("textvqa", *options) == 1
    assert "data.ocr is True, not False" in error(capsys)


def test_shards_are_merged(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = WRITERS["gqa"](tmp_path)
    logs = [tmp_path / f"{number}.jsonl" for number in (1, 2)]
    for number, log in enumerate(logs, 1):
        options = ("--log", log, "--model", model, "--processes", 1, "--shard", f"{number}/2")
        assert status("gqa", "--data", data, *options) == 0
    capsys.readouterr()
    assert status("merge", *logs, "--output", tmp_path / "merged.jsonl") == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'merged.jsonl'}\n"
    assert [record.index for record in read_log(tmp_path / "merged.jsonl").records] == [0, 1]
    assert status("merge", logs[0], "--output", tmp_path / "half.jsonl") == 1
    assert error(capsys) == "error: the logs of some shards are missing: 2/2"


def test_missing_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.jsonl"
    for name in WRITERS:
        assert status(name, "--data", tmp_path / "none", "--log", log) == 1
        assert "; get it from https://" in error(capsys)
        assert not log.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shard", "3/2"), "a shard i/n needs i from 1 to n, not 3/2"),
        (("--shard", "half"), "a shard is written i/n, such as 2/4, not 'half'"),
        (("--threshold", "inf"), "threshold should be a finite number, not inf"),
        (("--dtype", "float8"), "dtype must be one of auto, float32, bfloat16, float16, not 'float8'"),
        (("--device", "abacus"), "there is no device 'abacus'"),
    ],
)
def test_wrong_options_are_one_line(
    options: tuple[str, str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_pope(tmp_path)
    assert status("pope", "--data", data, "--log", tmp_path / "log.jsonl", *options) == 1
    assert said in error(capsys)


def test_signs_still_need_no_log(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("signs", "--seed", 3, "--count", 1, "--model", model, "--processes", 1, "--json") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("signs, test split, seed 3: 3 questions, with a threshold of ")
    report = json.loads(out[-1])
    assert (report["data"], report["split"], report["seed"]) == ("signs", "test", 3)
    assert [report["by_type"][kind]["count"] for kind in ("read", "exists", "describe")] == [1, 1, 1]
