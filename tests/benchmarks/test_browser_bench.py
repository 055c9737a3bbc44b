"""The bench of a browser's pictures: what it measures, on a few questions, and what it tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from secondlook.benchmarks import browser
from secondlook.benchmarks.browser import headless
from secondlook.benchmarks.commands import MeasurementError
from secondlook.benchmarks.report import tables
from secondlook.engine.cli import command_line

DIFFERENCES = ("doubt_difference", "doubt_distance", "accuracy_difference", "decisions_changed")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench") / "browser.json"


@pytest.fixture(scope="module")
def report(kept: Path) -> dict[str, Any]:
    """The last line of the command."""
    arguments = ["bench", "browser", "--count", "4", "--resized", "2", "--output", str(kept)]
    done = CliRunner().invoke(command_line(), arguments)
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.needs_chromium
def test_the_pages_pictures_are_nearly_those_of_the_edge(report: dict[str, Any]) -> None:
    off = {row["way"]: row["mean"] for row in report["resizing"]}
    assert set(off) == {"page", "drawImage", "createImageBitmap", "halving"}
    assert off["page"] < 0.5
    assert all(off[way] > 1 for way in off if way != "page")
    assert report["browser"]["doubt_distance"] < 0.1
    for name in ("edge", "browser", "canvas"):
        assert report[name]["count"] == 4
        assert 0 < report[name]["bytes"]["global"] < report[name]["bytes"]["original"] / 10


@pytest.mark.needs_chromium
def test_the_edge_does_not_differ_from_itself(report: dict[str, Any]) -> None:
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0}
    assert [report["edge"][name] for name in DIFFERENCES] == [nothing, 0.0, nothing, 0.0]


@pytest.mark.needs_chromium
def test_the_command_ends_with_one_object(report: dict[str, Any], kept: Path) -> None:
    assert report == json.loads(kept.read_text(encoding="utf-8"))
    assert (report["bench"], report["count"], report["seed"]) == ("browser", 4, 5151)
    assert report["environment"]["pillow"]
    shown = tables.measured("browser", report)
    assert "| best threshold |" in shown
    assert "| halving, by `drawImage` |" in shown


def test_a_machine_without_a_browser_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "chromium_path", lambda: None)
    with pytest.raises(MeasurementError, match="no Chromium on the PATH"), headless():
        pass
