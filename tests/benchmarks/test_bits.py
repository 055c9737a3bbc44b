"""`eval bits`: what fewer bits make of answers, doubts and a threshold, question by question."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.logs import header, random_records, write_run
from secondlook.benchmarks.analysis.replay import Replay
from secondlook.benchmarks.analysis.statistics import auroc
from secondlook.benchmarks.evaluation.bits import compare_bits
from secondlook.benchmarks.report.figures import fewer_bits
from secondlook.benchmarks.run_log import LogError, LoggedLook, Record, RunHeader
from secondlook.engine.cli import command_line, run
from secondlook.engine.method.policy import Policy

RECORDS = random_records(80)


def of(dtype: str) -> RunHeader:
    head = header()
    model = {**head.settings["model"], "dtype": dtype, "weights": dtype}
    return RunHeader({**head.settings, "model": model}, {**head.made, "threshold": 0.5})


def doubting(look: LoggedLook, more: float) -> LoggedLook:
    tokens = tuple(replace(token, min_entropy=token.min_entropy + more) for token in look.tokens)
    return replace(look, tokens=tokens)


@pytest.fixture
def logs(tmp_path: Path) -> list[Path]:
    """The second run doubts more, and is wrong about the first picture."""
    other = [replace(one, first=doubting(one.first, 0.125)) for one in RECORDS]
    other = [replace(one, first=_wrong(one)) if one.index == 0 else one for one in other]
    return [
        write_run(tmp_path / f"{name}.jsonl", records, of(name))
        for name, records in (("float32", RECORDS), ("float32 with int8 weights", other))
    ]


def _wrong(record: Record) -> LoggedLook:
    return replace(record.first, text="another", score=0.0)


def test_it_is_paired_and_the_threshold_is_the_first_ones(logs: list[Path]) -> None:
    found = compare_bits(logs)
    first, other = found["rows"]
    assert [row["precision"] for row in found["rows"]] == ["float32", "float32 with int8 weights"]
    assert found["threshold"] == first["threshold_anew"] == 0.5
    reading = [one for one in RECORDS if one.type == "read"]
    replay = Replay(reading, Policy(0.5))
    assert found["questions"] == len(replay.first)
    assert first["accuracy_global"]["value"] == pytest.approx(replay.first.mean())
    assert first["retransmission_rate"]["value"] == pytest.approx(replay.looked(0.5).mean())
    assert first["auroc"]["value"] == pytest.approx(auroc(replay.uncertainty, replay.first < 0.5))
    assert (first["same"], first["moved"], first["shifted"]) == (1.0, 0.0, 0.0)
    assert all(one == {"value": 0, "low": 0, "high": 0} for one in first["less"].values())
    # the same questions are looked at twice from 0.375 nats of the other's doubt less
    expected = (replay.possible & ~(replay.need + 0.125 < 0.5)).mean()
    assert other["retransmission_rate"]["value"] == pytest.approx(expected)
    assert other["less"]["retransmission_rate"]["low"] > 0
    assert other["threshold_anew"] == pytest.approx(first["threshold_anew"] + 0.125, abs=0.1)
    assert other["moved"] == pytest.approx(0.125)
    assert other["shifted"] == pytest.approx(0.125)
    wrong = sum(one.index == 0 for one in reading)
    assert other["same"] == pytest.approx(1 - wrong / len(reading))
    low = other["less"]["accuracy_global"]
    assert low["low"] <= low["value"] <= low["high"] <= 0
    ours, theirs = map(np.array, found["curves"])
    assert np.abs(ours - found["rates"]).max() < 0.02
    assert (theirs >= ours).all()


def test_other_thresholds_and_other_logs(logs: list[Path], tmp_path: Path) -> None:
    assert compare_bits(logs, 0.0)["rows"][1]["less"]["retransmission_rate"]["value"] == 0
    with pytest.raises(LogError, match="logs of the same run"):
        compare_bits([logs[0], write_run(tmp_path / "again.jsonl", RECORDS, of("float32"))])
    head = of("bfloat16")
    apart = RunHeader({**head.settings, "jpeg": header(quality=50).settings["jpeg"]}, head.made)
    with pytest.raises(LogError, match=r"differ in more than precision \(jpeg\.global\.quality"):
        compare_bits([logs[0], write_run(tmp_path / "other.jsonl", RECORDS, apart)])


def test_the_command_tells_it_and_documents_show_it(
    logs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "bits-few.json"
    with pytest.raises(SystemExit) as ended:
        run(command_line(), ["eval", "bits", *map(str, logs), "--output", str(output)])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert json.loads(told.splitlines()[-1]) == json.loads(output.read_text(encoding="utf-8"))
    written = fewer_bits([output], Path("docs/accuracy.md"), tmp_path / "plots")
    assert "|  | float32 | float32 with int8 weights |" in written
    assert "(plots/bits-few.svg)" in written
    assert "<svg" in (tmp_path / "plots" / "bits-few.svg").read_text(encoding="utf-8")
