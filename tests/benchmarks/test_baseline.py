"""`--baseline high-resolution`: one look at pictures in tiles, in the log and in the report."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from benchmarks.logs import header, random_records, write_run
from benchmarks.official_files import write_pope
from benchmarks.samples import smallest
from engine.checkpoints import GRID, IMAGE_SIZE, write_checkpoint
from engine.llava_next import Reference, write_next
from secondlook.benchmarks import cli as report_cli
from secondlook.benchmarks.evaluation import cli
from secondlook.benchmarks.evaluation.asking import ask_all
from secondlook.benchmarks.evaluation.options import Asking
from secondlook.benchmarks.run_log import LINE, LoggedLook, Record, Skipped, read_log
from secondlook.benchmarks.signs.evaluation import signs_data_set
from secondlook.edge.imaging import EncodedPicture, Picture, decode_jpeg, open_picture
from secondlook.edge.wire import Fixed, View
from secondlook.engine.cli import command_line, run

SEED = 3

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (cli, report_cli):  # the root logger belongs to pytest
        monkeypatch.setattr(each, "configure_logging", lambda _verbose: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_next(tmp_path_factory.mktemp("tiled"))


def status(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run(command_line(), list(map(str, arguments)))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_look_in_tiles_is_logged_as_transformers_answers(folder: Path) -> None:
    asking, theirs = Asking(str(folder), baseline="high-resolution"), Reference(folder, "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary = theirs.model.config.text_config.vocab_size
    data = signs_data_set("test", SEED, 80)
    asked = [data.pictures[index] for index in smallest("test", SEED, range(1, 80, 2), 2)]
    for picture, records in zip(asked, ask_all(asking, asked, processes=1), strict=True):
        assert not isinstance(records, Skipped)
        original = open_picture(picture.source.read())
        image = original.original()
        for record in records:
            look = record.baseline
            assert look is not None
            inputs = theirs.inputs(record.question, [image])
            assert look.prompt_tokens == inputs["input_ids"].shape[1]
            there = inputs["input_ids"] == theirs.model.config.image_token_id
            assert look.visual_tokens == int(there.sum()) > 3 * record.first.visual_tokens

            sent = sent_of(original)
            assert (look.pixels, look.bytes) == (sent.size.pixels, len(sent.jpeg))
            assert look.pixels > 2 * record.first.pixels
            found = theirs.model.generate(
                **theirs.sent(record.question, image, decode_jpeg(sent.jpeg)),
                max_new_tokens=20,
                do_sample=False,
                temperature=None,
                repetition_penalty=1.0,
            )[0, look.prompt_tokens :]
            assert len(look.tokens) == len(found)
            assert look.text == tokenizer.decode(found, skip_special_tokens=True).strip()
            assert look.flops == flops(look, len(inputs["pixel_values"][0]), vocabulary)


def sent_of(picture: Picture) -> EncodedPicture:
    """What the edge sends of a picture that is up to half wider than high: it fits two tiles by two."""
    side, size = 2 * IMAGE_SIZE, picture.size
    assert side < size.height <= size.width < 1.5 * size.height
    height = -(-size.height * side // size.width)
    view = View(size=Fixed(width=side, height=height), filter="bicubic")
    return picture.global_image(view, Asking().global_jpeg)


def flops(look: LoggedLook, tiles: int, vocabulary: int) -> int:
    """Two for each multiply-add, by the sizes of the checkpoint."""
    assert look.prompt_tokens is not None
    patches, seen, width, wide = GRID**2, GRID**2 + 1, 32, 64
    block = seen * (4 * width * width + 2 * width * 64) + 2 * seen * seen * width
    vision = patches * 3 * 14 * 14 * width + 2 * block + patches * (width * wide + wide * wide)
    layer = 2 * wide * wide + 2 * wide * 32 + 3 * wide * 96  # a token: keys and values have half the heads
    total = tiles * vision
    for new, keys in [(look.prompt_tokens, look.prompt_tokens)] + [
        (1, look.prompt_tokens + step) for step in range(1, len(look.tokens))
    ]:
        total += 4 * (new * layer + 2 * new * keys * wide) + vocabulary * wide
    return 2 * total


def test_the_command_logs_it_and_says_what_it_came_to(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, data = tmp_path / "pope.jsonl", write_pope(tmp_path)
    options = ("eval", "pope", "--data", data, "--log", log, "--model", folder, "--processes", 1, "--json")
    assert status(*options, "--baseline", "high-resolution") == 0
    out, _ = capsys.readouterr()
    report = json.loads(out.splitlines()[-1])
    found = read_log(log)
    looks = [record.baseline for record in found.records]
    assert all(look is not None for look in looks)
    for name, mean in report["baseline"].items():
        key = "score" if name == "accuracy" else name
        assert mean == pytest.approx(sum(getattr(look, key) for look in looks) / len(looks))
    accuracy = report["baseline"]["accuracy"]
    assert f"One look at high resolution: an accuracy of {accuracy:.3f}" in " ".join(out.split())
    assert View.model_validate(found.header.settings["model"]["baseline_view"]).size.kind == "tiles"

    assert status(*options) == 1  # the same questions without it are another run
    assert "model.baseline_view.filter is 'bicubic', not absent" in capsys.readouterr().err


def test_a_model_without_tiles_is_refused_before_there_is_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, model = tmp_path / "log.jsonl", write_checkpoint(tmp_path / "model")
    options = ("--count", 1, "--log", log, "--model", model, "--baseline")
    assert status("eval", "signs", *options, "high-resolution") == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert "sees no picture in tiles" in line
    assert not log.exists()
    assert status("eval", "signs", *options, "higher") == 2


@pytest.fixture
def records() -> list[Record]:
    """As if tiles had cost four times the pixels, five times the bytes and the FLOPs."""
    found = []
    for number, record in enumerate(random_records(12)):
        first = record.first
        assert first.flops is not None
        sizes = {"pixels": 4 * first.pixels, "bytes": 5 * first.bytes, "visual_tokens": 720}
        look = replace(first, **sizes, flops=5 * first.flops, score=float(number % 4 > 0))
        found.append(replace(record, relevance=None, baseline=look))
    return found


def test_it_is_drawn_beside_two_looks(records: list[Record], tmp_path: Path) -> None:
    assert LINE.validate_json(LINE.dump_json(records)) == records
    log = write_run(tmp_path / "log.jsonl", records, header())
    assert status("report", log, "--output", tmp_path / "out", "--resamples", 50) == 0
    text = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"\| one look at high resolution \|(.*)\|", text)
    accuracy, seconds, extra_bytes, extra_pixels, _ = (cell.strip() for cell in row.split("|"))
    assert accuracy.startswith("75")
    assert seconds == "0 %"
    assert (extra_bytes[:4], extra_pixels[:4]) == ("4.00", "3.00")
    assert re.search(r"\| one look at high resolution \|\n\|.*\n\| relative computation \|.* 5\.00", text)
    for name in ("communication-pixels", "communication-bytes", "computation"):
        assert "high resolution" in (tmp_path / "out" / "plots" / f"{name}.svg").read_text(encoding="utf-8")

    plain = [replace(record, baseline=None) for record in records]
    write_run(tmp_path / "plain.jsonl", plain, header())
    assert status("report", tmp_path / "plain.jsonl", "--output", tmp_path / "plain", "--resamples", 50) == 0
    assert "high resolution" not in (tmp_path / "plain" / "summary.md").read_text(encoding="utf-8")
