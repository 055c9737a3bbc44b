"""Runs over an official data set: what is logged, how a run goes on, and how its shards come together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.official_files import WRITERS, write_lines, write_pope, write_textvqa
from edge.support import square
from engine.checkpoints import GRID, IMAGE_SIZE, Variant, write_checkpoint
from secondlook.benchmarks.datasets.official import LOADERS, load_pope, load_textvqa
from secondlook.benchmarks.datasets.question import DataSet, MalformedDataError
from secondlook.benchmarks.environment import PACKAGES
from secondlook.benchmarks.evaluation.options import Asking
from secondlook.benchmarks.evaluation.running import merge_logs, run
from secondlook.benchmarks.run_log import LogError, RunHeader, Shard, read_log, write_log
from secondlook.edge.errors import SettingsError
from secondlook.edge.geometry import Region
from secondlook.edge.imaging import open_picture
from secondlook.engine.errors import QuestionTooLongError

pytestmark = pytest.mark.usefixtures("one_thread")

PICTURES = [f"COCO_val2014_{number:012}.jpg" for number in range(5)]

VIEW = square(IMAGE_SIZE)


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Asking:
    return Asking(str(write_checkpoint(tmp_path_factory.mktemp("asked"), Variant(seed=5, kv_heads=2))))


@pytest.fixture(scope="module")
def pope(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return load_pope(write_pope(tmp_path_factory.mktemp("pope"), PICTURES))


@pytest.fixture(scope="module")
def whole(asking: Asking, pope: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of an undivided, uninterrupted run."""
    log = tmp_path_factory.mktemp("logs") / "whole.jsonl"
    run(pope, asking, log, processes=1)
    return log


def test_the_log_says_everything_that_was_asked_and_answered(whole: Path, pope: DataSet) -> None:
    records = read_log(whole).records
    asked = [(picture, question) for picture in pope.pictures for question in picture.questions]
    assert len(records) == len(asked) == 30
    assert {record.file for record in records} == set(PICTURES)
    for record, (picture, question) in zip(records, asked, strict=True):
        assert (record.index, record.id, record.type) == (picture.index, question.id, question.kind)
        assert (record.question, record.truth) == (question.asked(), question.truth)
        assert record.second is not None
        assert record.region is not None
        source = open_picture(picture.source.read())
        crop = source.local_image(Region(*record.region), VIEW)
        assert record.first.bytes == len(source.global_image(VIEW).jpeg)
        assert (record.second.bytes, record.second.pixels) == (len(crop.jpeg), crop.size.pixels)
        assert (record.original_pixels, record.original_bytes) == (160 * 120, len(picture.source.read()))
        for look in (record.first, record.second):
            assert look.visual_tokens == GRID * GRID
            assert look.score == question.score(look.text)
            assert len(look.tokens) >= 1


def test_the_header_states_settings_versions_and_digests(whole: Path, pope: DataSet) -> None:
    header = read_log(whole).header
    assert set(header.settings) == {"data", "model", "jpeg", "versions"}
    assert header.settings["data"] == {"name": "pope", **pope.settings}
    assert set(header.settings["data"]["files"]) == {
        f"coco_pope_{split}.json" for split in ("random", "popular", "adversarial")
    }
    assert len(header.settings["model"]["weights"]) == 16
    assert header.settings["model"]["dtype"] == "float32"
    assert "threshold" not in header.settings["model"]
    assert header.settings["jpeg"]["global"] == {"quality": 90, "subsampling": "4:4:4"}
    assert set(header.settings["versions"]) == set(PACKAGES)
    assert {"model", "device", "cores", "python", "system", "commit"} <= set(header.made)
    assert header.made["threshold"] == pytest.approx(0.5)


@pytest.mark.parametrize("name", LOADERS)
def test_every_data_set_can_be_run(name: str, asking: Asking, tmp_path: Path) -> None:
    data = LOADERS[name](WRITERS[name](tmp_path)).first(1)
    done = run(data, asking, tmp_path / "log.jsonl", processes=1)
    assert [record.id for record in done.records] == [question.id for question in data.pictures[0].questions]


def test_boxes_are_logged_and_measure_the_region(asking: Asking, tmp_path: Path) -> None:
    data = LOADERS["vstar"](WRITERS["vstar"](tmp_path))
    for record in run(data, asking, tmp_path / "log.jsonl", processes=1).records:
        question = data.pictures[record.index].questions[0]
        assert record.boxes == tuple(tuple(box) for box in question.boxes)
        assert record.region is not None
        region = Region(*record.region)
        inside = [region.contains((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in record.boxes]
        assert record.region_hit == all(inside)


def test_a_picture_without_more_detail_gets_one_look(asking: Asking, tmp_path: Path) -> None:
    data = LOADERS["vstar"](WRITERS["vstar"](tmp_path)).first(1)
    path = Path(str(data.pictures[0].source))
    with Image.open(path) as picture:
        picture.resize((IMAGE_SIZE, 40)).save(path)
    (record,) = run(data, asking, tmp_path / "log.jsonl", processes=1).records
    assert (record.second, record.region, record.region_hit) == (None, None, None)
    assert len(record.boxes) == 1


def test_a_model_with_the_instruction_in_its_settings_is_not_told_twice(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", Variant(seed=5, kv_heads=2))
    instruction = "Answer the question using a single word or phrase."
    (folder / "secondlook.json").write_text(json.dumps({"question_suffix": instruction}), encoding="utf-8")
    data = load_textvqa(write_textvqa(tmp_path)).first(1)
    done = run(data, Asking(str(folder)), tmp_path / "log.jsonl", processes=1)
    assert [record.question for record in done.records] == [
        "what is the brand of this camera?",
        "what number is on the camera?",
    ]
    settings = read_log(tmp_path / "log.jsonl").header.settings
    assert settings["model"]["question_suffix"] == instruction


def test_jpeg_qualities_are_part_of_the_run(asking: Asking, pope: DataSet, tmp_path: Path) -> None:
    coarse = replace(asking, local_quality=30)
    log = tmp_path / "coarse.jsonl"
    (record, *_) = run(pope.first(1), coarse, log, processes=1).records
    assert record.region is not None
    assert record.second is not None
    source = open_picture(pope.pictures[0].source.read())
    crop = source.local_image(Region(*record.region), VIEW, coarse.local_jpeg)
    assert record.second.bytes == len(crop.jpeg)
    with pytest.raises(LogError, match=r"logs another run: jpeg\.local\.quality is 30, not 90"):
        run(pope, asking, log, processes=1)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from secondlook.benchmarks.datasets.official import load_pope
from secondlook.benchmarks.evaluation.options import Asking
from secondlook.benchmarks.evaluation.running import run
from secondlook.benchmarks.run_log import RunLog

written = []

def write(self, line):
    written.append(line)
    if len(written) == 4:  # the header and two pictures are whole; the third is cut
        self._file.write(line[: len(line) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    self._file.write(line + b"\\n")

RunLog._write = write
torch.set_num_threads(1)
model, data, log = sys.argv[1:]
run(load_pope(Path(data)), Asking(model), Path(log), processes=1)
"""


@pytest.mark.slow  # going on is shown below, and by test_run_log a line cut short
def test_a_run_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(
    asking: Asking, pope: DataSet, whole: Path, tmp_path: Path
) -> None:
    log = tmp_path / "killed.jsonl"
    data = Path(str(pope.pictures[0].source)).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, asking.model, str(data), str(log)]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not log.read_bytes().endswith(b"\n")
    assert {record.index for record in read_log(log).records} == {0, 1}
    finished = run(pope, asking, log, processes=1)
    assert len(finished.records) == 30
    assert log.read_bytes() == whole.read_bytes()


def test_a_finished_run_asks_nothing_more(asking: Asking, pope: DataSet, whole: Path, tmp_path: Path) -> None:
    log = tmp_path / "again.jsonl"
    log.write_bytes(whole.read_bytes())
    # The pictures may even be gone by now.
    gone = replace(pope, pictures=[replace(one, source=Unreadable()) for one in pope.pictures])
    assert run(gone, asking, log, processes=1).records == read_log(whole).records
    assert log.read_bytes() == whole.read_bytes()


class Unreadable:
    def read(self) -> bytes:
        raise AssertionError("the picture was read again")


def test_a_short_run_can_be_made_longer(asking: Asking, pope: DataSet, whole: Path, tmp_path: Path) -> None:
    log = tmp_path / "short.jsonl"
    assert len(run(pope.first(2), asking, log, processes=1).records) == 12
    run(pope, asking, log, processes=1)
    assert log.read_bytes() == whole.read_bytes()
    # And a shorter one takes what it needs of a longer one's log.
    assert len(run(pope.first(3), asking, log, processes=1).records) == 18


def shards(asking: Asking, data: DataSet, folder: Path, count: int) -> list[Path]:
    logs = [folder / f"{number}.jsonl" for number in range(1, count + 1)]
    for number, log in enumerate(logs, 1):
        run(data, asking, log, shard=Shard(number, count), processes=1)
    return logs


def test_shards_come_together_to_the_undivided_run(
    asking: Asking, pope: DataSet, whole: Path, tmp_path: Path
) -> None:
    logs = shards(asking, pope, tmp_path, 3)
    assert [len({one.index for one in read_log(log).records}) for log in logs] == [2, 2, 1]
    merge_logs([logs[2], logs[0], logs[1]], tmp_path / "merged.jsonl")
    assert (tmp_path / "merged.jsonl").read_bytes() == whole.read_bytes()


def test_processes_change_nothing(asking: Asking, pope: DataSet, whole: Path, tmp_path: Path) -> None:
    log = tmp_path / "two.jsonl"
    run(pope, asking, log, processes=2)
    assert log.read_bytes() == whole.read_bytes()


def part(whole: Path, path: Path, shard: Shard, left_out: Sequence[int] = (), **settings: object) -> Path:
    """The log that a shard of the run would have, but for some pictures, and with other settings."""
    found = read_log(whole)
    indices = sorted({record.index for record in found.records if shard.has(record.index)} - {*left_out})
    pictures = [[record for record in found.records if record.index == index] for index in indices]
    header = RunHeader({**found.header.settings, **settings}, found.header.made, shard)
    write_log(path, header, pictures)
    return path


def test_mixed_settings_are_refused_with_both_sides_named(whole: Path, tmp_path: Path) -> None:
    one = part(whole, tmp_path / "one.jsonl", Shard(1, 2))
    other = part(whole, tmp_path / "other.jsonl", Shard(2, 2), model={"weights": "c0ffee"})
    with pytest.raises(LogError) as caught:
        merge_logs([one, other], tmp_path / "merged.jsonl")
    message = str(caught.value)
    assert message.startswith(f"{other} and {one} are logs of different runs, which are never mixed")
    weights = read_log(whole).header.settings["model"]["weights"]
    assert f"in other.jsonl model.weights is 'c0ffee', not '{weights}'" in message
    assert "model.dtype is absent, not 'float32'" in message
    assert not (tmp_path / "merged.jsonl").exists()


def test_only_all_shards_of_a_run_are_merged(whole: Path, tmp_path: Path) -> None:
    first, second = (part(whole, tmp_path / f"{n}.jsonl", Shard(n, 3)) for n in (1, 2))
    again, half = (part(whole, tmp_path / n, s) for n, s in (("a", Shard(2, 3)), ("h", Shard(2, 2))))
    output = tmp_path / "merged.jsonl"
    with pytest.raises(LogError, match=r"some shards are missing: 3/3"):
        merge_logs([first, second], output)
    with pytest.raises(LogError, match=r"a and .*2\.jsonl are both shard 2/3"):
        merge_logs([first, second, again], output)
    with pytest.raises(LogError, match=r"h is shard 2/2, but .*1\.jsonl is one of 3"):
        merge_logs([first, half], output)
    with pytest.raises(LogError, match="nothing to merge"):
        merge_logs([], output)
    with pytest.raises(LogError, match=r"1\.jsonl is there already"):
        merge_logs([first, second], first)


def test_a_shard_that_is_behind_is_named(whole: Path, tmp_path: Path) -> None:
    first = part(whole, tmp_path / "1.jsonl", Shard(1, 2), left_out=[2])
    second = part(whole, tmp_path / "2.jsonl", Shard(2, 2))
    with pytest.raises(LogError, match=r"1\.jsonl, shard 1/2, lacks 1 pictures, such as 2; finish it"):
        merge_logs([first, second], tmp_path / "merged.jsonl")


def test_shards_of_several_machines_say_so(whole: Path, tmp_path: Path) -> None:
    first = part(whole, tmp_path / "1.jsonl", Shard(1, 2))
    found = read_log(part(whole, tmp_path / "2.jsonl", Shard(2, 2)))
    elsewhere = replace(found.header, made={"device": "another"})
    write_log(tmp_path / "2.jsonl", elsewhere, [found.records])
    header = merge_logs([tmp_path / "2.jsonl", first], tmp_path / "merged.jsonl")
    assert header.made == {"shards": [read_log(first).header.made, {"device": "another"}]}


def test_a_shard_without_pictures_is_refused(asking: Asking, pope: DataSet, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="shard 8/8 has none of the 5 pictures"):
        run(pope, asking, tmp_path / "log.jsonl", shard=Shard(8, 8))


def test_a_damaged_picture_is_named_and_what_was_done_is_kept(asking: Asking, tmp_path: Path) -> None:
    data = load_pope(write_pope(tmp_path, PICTURES[:2]))
    broken = tmp_path / "val2014" / PICTURES[1]
    broken.write_bytes(broken.read_bytes()[:400])
    with pytest.raises(MalformedDataError, match=PICTURES[1]):
        run(data, asking, tmp_path / "log.jsonl", processes=1)
    assert {record.index for record in read_log(tmp_path / "log.jsonl").records} == {0}


def broken(folder: Path, *names: str) -> DataSet:
    data = load_pope(write_pope(folder, PICTURES))
    for name in names:
        picture = folder / "val2014" / name
        picture.write_bytes(picture.read_bytes()[:400])
    return data


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_damaged_pictures_are_left_out_where_that_is_asked_for(
    asking: Asking, pope: DataSet, whole: Path, tmp_path: Path, processes: int
) -> None:
    data, log = broken(tmp_path, PICTURES[1], PICTURES[3]), tmp_path / "log.jsonl"
    with pytest.raises(MalformedDataError, match="leave it out with --skip-damaged"):
        run(data, asking, log, processes=processes)
    lenient = replace(asking, skip_damaged=True)  # what was asked before is not lost
    done = run(data, lenient, log, processes=processes)
    assert [one.file for one in done.skipped] == [PICTURES[1], PICTURES[3]]
    assert {record.index for record in done.records} == {0, 2, 4}
    content = log.read_bytes()
    assert run(data, lenient, log, processes=1).skipped == done.skipped
    assert log.read_bytes() == content
    found = read_log(log)
    assert (found.records, found.skipped) == (done.records, done.skipped)
    mended = run(pope, asking, log, processes=1)  # the pictures were fetched again
    assert mended.skipped == read_log(log).skipped == []
    assert sorted(read_log(log).records, key=lambda one: one.index) == read_log(whole).records


def test_shards_say_what_they_left_out(asking: Asking, tmp_path: Path) -> None:
    data = broken(tmp_path, PICTURES[0], PICTURES[3])
    logs = shards(replace(asking, skip_damaged=True), data, tmp_path, 2)
    merge_logs(logs, tmp_path / "merged.jsonl")
    found = read_log(tmp_path / "merged.jsonl")
    assert [one.index for one in found.skipped] == [0, 3]
    assert {record.index for record in found.records} == {1, 2, 4}


def test_a_run_needs_a_picture_that_can_be_read(asking: Asking, tmp_path: Path) -> None:
    data = broken(tmp_path, *PICTURES)
    with pytest.raises(MalformedDataError, match="none of 5 pictures can be read: "):
        run(data, replace(asking, skip_damaged=True), tmp_path / "log.jsonl", processes=1)


def test_a_question_too_long_is_named_before_anything_is_asked(asking: Asking, tmp_path: Path) -> None:
    path = write_pope(tmp_path, PICTURES[:2]) / "coco_pope_adversarial.json"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines[3]["text"] = "Is there a car? " * 200
    write_lines(path, lines)
    with pytest.raises(
        QuestionTooLongError, match=rf"question 'adversarial/4' about .*{PICTURES[1]}: the prompt"
    ):
        run(load_pope(tmp_path), asking, tmp_path / "log.jsonl", processes=1)
    assert read_log(tmp_path / "log.jsonl").records == []


def test_long_questions_get_the_room_they_need(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", Variant(seed=5, kv_heads=2, context=4096))
    path = write_pope(tmp_path, PICTURES[:1]) / "coco_pope_random.json"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines[0]["text"] = "Is there a car? " * 150
    write_lines(path, lines)
    done = run(load_pope(tmp_path), Asking(str(folder)), tmp_path / "log.jsonl", processes=1)
    assert len(done.records[0].question) > 2000
    assert (done.records[0].first.prompt_tokens or 0) > 1000
