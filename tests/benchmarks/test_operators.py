"""The operators' benchmark: every row has its comparison, and the last line is one JSON object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from secondlook.benchmarks import cli, timing

KEYS = {
    *("operator", "device", "dtype", "shape"),
    *("microseconds", "composition_microseconds", "floor_microseconds", "speedup"),
}


def test_the_last_line_is_one_json_object(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(timing, "_ROUNDS", 1)
    monkeypatch.setattr(timing, "_ROUND_SECONDS", 0.0)
    monkeypatch.setattr(cli, "configure_logging", lambda _verbose: None)
    output = tmp_path / "kernels.json"
    done = CliRunner().invoke(cli.app, ["bench", "kernels", "--device", "cpu", "--output", str(output)])
    assert done.exit_code == 0, done.output
    report = json.loads(done.output.splitlines()[-1])
    assert report == json.loads(output.read_text(encoding="utf-8"))
    assert {row["operator"] for row in report["rows"]} == {"token_statistics", "attention_row", "find_region"}
    for row in report["rows"]:
        assert set(row) == KEYS
        assert row["speedup"] == pytest.approx(row["composition_microseconds"] / row["microseconds"])
        assert row["floor_microseconds"] > 0


def test_operations_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_ROUNDS", 2)
    monkeypatch.setattr(timing, "_ROUND_SECONDS", 0.0)
    called: list[str] = []
    seconds = timing.side_by_side(
        [lambda: called.append("a"), lambda: called.append("b")], torch.device("cpu")
    )
    assert called == ["a"] * 3 + ["b"] * 3 + ["a", "b"] * 2
    assert all(value > 0 for value in seconds)
