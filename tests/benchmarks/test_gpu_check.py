"""`make gpu-check`: every step runs, also after one that failed, and leaves its output."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from secondlook.benchmarks import gpu_check


def test_every_step_runs_and_failures_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    demanded = "import os; print(os.environ['SECONDLOOK_REQUIRE_CUDA'])"
    steps = {
        "broken": [sys.executable, "-c", "print('why'); raise SystemExit(9)"],
        "missing": ["no-such-sanitizer"],
        "fine": [sys.executable, "-c", demanded],
    }
    monkeypatch.setattr(gpu_check, "_steps", lambda _out: steps)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    assert ended.value.code == 2
    assert capsys.readouterr().out.splitlines() == [
        "broken: FAILED (9)",
        "missing: FAILED (127)",
        "fine: passed",
    ]
    logs = {path.stem: path.read_text() for path in (tmp_path / "out").glob("*.log")}
    assert logs == {"broken": "why\n", "missing": "no-such-sanitizer is not installed\n", "fine": "1\n"}
    outcome = json.loads((tmp_path / "out" / "gpu-check.json").read_text())
    assert {name: step["status"] for name, step in outcome.items()} == {
        "broken": 9,
        "missing": 127,
        "fine": 0,
    }


def test_tests_sanitizers_and_times_are_among_the_steps(tmp_path: Path) -> None:
    steps = gpu_check._steps(tmp_path)
    assert list(steps) == ["tests", "memcheck", "racecheck", "operators"]
    assert "needs_cuda" in steps["tests"]
    assert "--error-exitcode" in steps["racecheck"]
