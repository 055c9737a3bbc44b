"""`eval compare`: two runs that look closer in different places."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.logs import header, random_records, write_run
from secondlook.benchmarks.analysis.comparing import compare
from secondlook.benchmarks.report.tables import measured
from secondlook.benchmarks.run_log import LogError, LoggedLook, Record, RunHeader
from secondlook.engine.cli import command_line, run


def looking(**localisation: Any) -> RunHeader:
    head, localisation = header(), {"crop_size": 168, **localisation}
    return RunHeader(
        {**head.settings, "model": {**head.settings["model"], "localisation": localisation}}, head.made
    )


def with_second(record: Record, score: float, sent: int) -> Record:
    """Sure of its second answer."""
    second = record.second
    if second is None:
        return record
    tokens = tuple(replace(token, min_entropy=0.0) for token in second.tokens)
    changed = LoggedLook(second.text, score, tokens, second.pixels, sent, second.visual_tokens)
    return replace(record, second=changed, region_hit=None if record.region_hit is None else score == 1)


@pytest.fixture
def logs(tmp_path: Path) -> list[Path]:
    """The second run's regions miss half of the pictures, and their images take half the bytes."""
    records = random_records(60)
    good = [with_second(one, 1.0, 8000) for one in records]
    worse = [with_second(one, float(one.index % 2), 4000) for one in records[:-2]]  # of one picture less
    heads = [looking(layers={"2": None}, rule=rule) for rule in ("squares", "box")]
    paths = [tmp_path / "squares.jsonl", tmp_path / "box.jsonl"]
    return [write_run(*each) for each in zip(paths, (good, worse), heads, strict=True)]


def test_what_is_compared_is_paired_and_at_equal_bytes(logs: list[Path]) -> None:
    found = compare(logs)
    assert (found["questions"], found["left_out"]) == (118, 1)
    assert found["localisation"] == [{"rule": "squares"}, {"rule": "box"}]
    assert found["local_bytes"] == [8000.0, 4000.0]
    assert [one["hit"]["value"] for one in found["regions"]] == pytest.approx([1.0, 0.5], abs=0.02)
    first, second, better = found["always"]
    assert (first["value"], second["value"]) == pytest.approx((1.0, 0.5), abs=0.03)
    assert better["value"] == pytest.approx(second["value"] - first["value"])
    assert better["low"] < better["value"] < better["high"] < 0
    all_bytes = found["at_bytes"][-1]
    assert all_bytes["accuracy"] == pytest.approx([first["value"], second["value"]])
    assert all_bytes["better"]["value"] == pytest.approx(better["value"])
    # At a tenth of the bytes the second run looks again at twice as many.
    assert found["at_bytes"][0]["bytes"] < all_bytes["bytes"] - 6000


def test_the_command_tells_and_keeps_it(
    logs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "compare.json"
    with pytest.raises(SystemExit) as ended:
        run(command_line(), ["eval", "compare", *map(str, logs), "--output", str(output)])
    told = capsys.readouterr().out
    assert ended.value.code == 0
    caption = " ".join(told.split("first")[0].split())
    assert "by rule squares and by rule box; pictures that are not in both, and are left out: 1." in caption
    assert json.loads(told.splitlines()[-1]) == json.loads(output.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"quality": 50},
            "differ in more than where the model looks closer (jpeg.global.quality is 50, not 90;",
        ),
        ({}, "are logs of the same run"),
    ],
)
def test_other_logs_are_not_compared(
    logs: list[Path], tmp_path: Path, settings: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    head = looking(layers={"2": None}, rule="squares")
    if settings:
        head = RunHeader({**head.settings, "jpeg": header(**settings).settings["jpeg"]}, head.made)
    other = write_run(tmp_path / "other.jsonl", random_records(60), head)
    with pytest.raises(SystemExit) as ended:
        run(command_line(), ["eval", "compare", str(logs[0]), str(other)])
    assert ended.value.code == 1
    assert told in capsys.readouterr().err


def test_what_a_log_leaves_out_is_the_default(logs: list[Path], tmp_path: Path) -> None:
    """Logs of before there was a choice say nothing of it."""
    records = random_records(60)
    older, newer = (
        write_run(tmp_path / f"{name}.jsonl", records, looking(layers={"2": None}, **more))
        for name, more in (("older", {}), ("newer", {"rule": "squares", "generic": True, "sink": None}))
    )
    with pytest.raises(LogError, match="look closer in the same places, so there is nothing to compare"):
        compare([older, newer])
    assert compare([older, logs[1]])["localisation"] == [{"rule": "squares"}, {"rule": "box"}]


def test_layers_and_sinks_are_told_in_words(logs: list[Path], tmp_path: Path) -> None:
    where = {"layers": {"1": {"0": 1.0, "3": 1.0}}, "sink": {"layers": {"2": None}, "threshold": 0.01}}
    other = write_run(tmp_path / "heads.jsonl", random_records(60), looking(rule="squares", **where))
    told = measured("compare", compare([logs[0], other]))
    assert (
        "by layer 2: mean, sink `None` and by layer 1: head 0, head 3, sinks of layer 2: mean from 0.01"
        in told
    )


def test_a_log_without_a_place_to_look_is_refused(logs: list[Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "odd.jsonl", random_records(60), looking(layers={"2": None}, rule="stars"))
    with pytest.raises(LogError, match=r"odd\.jsonl is not a log of an evaluation run"):
        compare([logs[0], other])


def test_one_log_is_not_compared_with_itself(logs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(command_line(), ["eval", "compare", str(logs[0]), str(logs[0])])
    assert ended.value.code == 1
    assert "there are two logs to compare" in capsys.readouterr().err
