"""The documents' figures are those of the committed results, and what was missed is said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from repository import ROOT
from secondlook.benchmarks.tables import signs as markdown

RESULTS = ROOT / "benchmarks" / "results" / "signs-test-4242.json"
CARD = ROOT / "engine" / "secondlook" / "engine" / "checkpoint" / "README.md"


@pytest.fixture
def report() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return loaded


def test_the_committed_results_are_of_the_committed_model(report: dict[str, Any]) -> None:
    from secondlook.engine import load_model

    model = load_model("demo")
    assert report["weights"] == model.digest()
    assert report["threshold"] == model.settings.threshold
    calibration = json.loads((RESULTS.parent / "signs-calibration-1.json").read_text(encoding="utf-8"))
    assert calibration["weights"] == report["weights"]
    assert round(calibration["calibrated_threshold"], 4) == report["threshold"]


def test_aims_that_are_missed_are_named(report: dict[str, Any]) -> None:
    report.update(
        accuracy_global=0.6,
        accuracy_full=0.93,
        of_full=0.98,
        retransmission_rate=0.5,
        auroc=0.9,
        region_hit=0.92,
    )
    assert markdown.missed(report) == []
    assert "Every aim is reached." in markdown.results_markdown(report)
    worse = {
        "accuracy_global": 0.71,
        "accuracy_full": 0.929,
        "of_full": 0.979,
        "retransmission_rate": 0.51,
        "auroc": 0.89,
        "region_hit": 0.91,
    }
    for key, value in worse.items():
        assert len(markdown.missed({**report, key: value})) == 1
    assert set(markdown.missed({**report, **worse})) == set(markdown.AIMS)
