"""`bench stream`: one JSON object at the end, a recording that is continued, and what is told of it."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from secondlook.benchmarks.report.document import Table
from secondlook.benchmarks.report.streams import NAMES, sections
from secondlook.benchmarks.streams import asking, bench
from secondlook.benchmarks.streams.recording import read_recording
from secondlook.engine.cli import command_line

METHODS = ("small", "large", "partition", "belief", "focus_known")
COLUMNS = {
    *("method", "delay", "accuracy", "low", "high", "calls_per_frame", "bytes_up_edge", "bytes_up_site"),
    *("deadline_misses", "age", "age_right", "correct_after"),
}


def invoke(recording: Path, *options: str) -> Result:
    command = ["bench", "stream", "--seed", "4", "--streams", "1", "--recording", str(recording)]
    return CliRunner().invoke(command_line(), [*command, *options])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A recording, and the report that it was made for; the split of the model is not run."""
    path = tmp_path_factory.mktemp("streams") / "recording.jsonl.gz"
    options = [option for name in METHODS for option in ("--methods", name)]
    split = {"bytes_whole": 70_000, "bytes_region": 60_000, "seconds_split": 0.2, "seconds_whole": 0.1}
    split |= {"extra_seconds": 0.012, "same_answers": 1.0, "frames": 34}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bench, "SECONDS", 4.0)
        patched.setattr(bench, "measure_partition", lambda *_arguments: split)
        done = invoke(path, *options, "--delays", "0.4", "--delays", "1")
    assert done.exit_code == 0, done.output
    return path, json.loads(done.output.splitlines()[-1])


def test_the_last_line_has_a_row_for_every_method_and_delay(made: tuple[Path, dict[str, Any]]) -> None:
    _, report = made
    assert [(row["method"], row["delay"]) for row in report["rows"]] == [
        (name, delay) for delay, name in product((0.4, 1.0), METHODS)
    ]
    assert all(row.keys() == COLUMNS for row in report["rows"])
    assert report["frames"] == 20
    assert report["environment"]["torch"]
    assert report["recorded"]["models"]["small"]["digest"] == report["recorded"]["models"]["large"]["digest"]
    rows = {(row["method"], row["delay"]): row for row in report["rows"]}
    assert rows["partition", 1.0]["accuracy"] == rows["large", 1.0]["accuracy"]
    assert rows["partition", 1.0]["bytes_up_edge"] > rows["large", 1.0]["bytes_up_edge"]
    assert rows["small", 1.0]["bytes_up_site"] == 0


def test_a_second_run_needs_no_model(
    made: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, report = made
    monkeypatch.setattr(bench, "SECONDS", 4.0)
    monkeypatch.setattr(asking, "load_model", lambda *_arguments, **_named: pytest.fail("loaded"))
    before = path.read_bytes()
    done = invoke(path, "--delays", "1", "--methods", "focus_known")
    assert done.exit_code == 0, done.output
    again = json.loads(done.output.splitlines()[-1])
    assert again["rows"] == [
        row for row in report["rows"] if row["method"] == "focus_known" and row["delay"] == 1
    ]
    assert path.read_bytes() == before
    assert read_recording(path).looks.keys() == {0}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--seed", "5"], "seed is 4, not 5"),
        (["--small", "demo-qwen"], "small is 'demo', not 'demo-qwen'"),
        (["--methods", "magic"], "no method 'magic'"),
    ],
)
def test_another_run_than_the_recording_s_is_refused_in_one_line(
    made: tuple[Path, dict[str, Any]], options: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "SECONDS", 4.0)
    done = invoke(made[0], *options)
    assert done.exit_code != 0
    assert told in str(done.exception)
    assert "\n" not in str(done.exception)


def test_a_report_is_told_with_tables_and_plots(made: tuple[Path, dict[str, Any]]) -> None:
    _, report = made
    text, parts, plots = sections(report)
    assert "1 streams, 20 frames, seed 4" in text
    accuracy, costs, differences = parts
    assert all(isinstance(table, Table) for table in parts)
    assert [row[0] for row in accuracy.rows] == [NAMES[name] for name in METHODS]
    assert len(accuracy.columns) == 3
    assert len(costs.rows) == len(METHODS)
    assert "70 kB" in costs.note
    assert "100% of the answers" in costs.note
    assert "+12.0 ms" in costs.note
    assert [row[0] for row in differences.rows] == [f"{NAMES['belief']} less {NAMES['large']}"]
    assert [plot.name for plot in plots] == ["stream-accuracy-constant", "stream-calls-constant"]
    assert all("<svg" in plot.svg for plot in plots)
