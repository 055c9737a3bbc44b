"""The commands `secondlook eval …` from the command line on: what they print, and their one-line errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.official_files import WRITERS, write_pope, write_textvqa
from engine.checkpoints import Variant, write_checkpoint
from secondlook.benchmarks.evaluation import cli
from secondlook.benchmarks.run_log import read_log
from secondlook.engine.cli import command_line, run

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
    assert lines[0] == "pope: 12 questions"
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
        (("--threshold", "inf"), "threshold must be a finite number of at least 0, got inf"),
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
    assert out[0] == "signs, test split, seed 3: 3 questions"
    report = json.loads(out[-1])
    assert (report["data"], report["split"], report["seed"]) == ("signs", "test", 3)
    assert [report["by_type"][kind]["count"] for kind in ("read", "exists", "describe")] == [1, 1, 1]
