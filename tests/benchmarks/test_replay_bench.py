"""Timing the replay of a long log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.logs import random_records, write_run
from secondlook.benchmarks.analysis.speed import bench_replay, replay_text
from secondlook.benchmarks.report import cli
from secondlook.benchmarks.run_log import LogError
from secondlook.engine.cli import command_line, run


def test_a_log_is_repeated_until_it_has_the_rows(tmp_path: Path) -> None:
    log = write_run(tmp_path / "run.jsonl", random_records(3))
    report = bench_replay(log, 17)
    assert report["rows"] == 17
    assert report["curves"] == 3 * 11 * 2 * 3  # measures, limits, arbitration or not, costs
    assert report["seconds"] == pytest.approx(report["seconds_reading"] + report["seconds_replaying"])
    assert report["log_bytes"] > log.stat().st_size
    assert replay_text(report).startswith("17 records (0 MB) read in ")


def test_the_command_ends_with_json_and_refuses_what_is_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "configure_logging", lambda _verbose: None)
    log, output = write_run(tmp_path / "run.jsonl", random_records(3)), tmp_path / "replay.json"
    with pytest.raises(SystemExit):
        run(command_line(), ["bench", "replay", str(log), "--rows", "9", "--output", str(output)])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == json.loads(output.read_text(encoding="utf-8"))
    assert last["rows"] == 9
    with pytest.raises(LogError, match="cannot read the log"):
        bench_replay(tmp_path / "none.jsonl", 9)
