"""The command `plan`: from a log and a measurement to a number of replicas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from repository import ROOT
from secondlook.benchmarks.commands import MeasurementError
from secondlook.benchmarks.options import PlanRun
from secondlook.benchmarks.plan import plan
from secondlook.engine.cli import command_line

RESULTS = ROOT / "benchmarks" / "results"
LOG = RESULTS / "signs-5151-50-70.jsonl.gz"
LOAD = RESULTS / "load-demo-float32-cpu.json"


def planned(**changes: Any) -> dict[str, Any]:
    return plan(
        PlanRun(**{"log": LOG, "latency": LOAD, "edges": 40, "questions": 3000, "rate": 0.5} | changes)
    )


def test_as_many_replicas_are_enough_as_keep_up() -> None:
    """One answers some 18 a second. The rows go on for two, so that one sees what more would bring."""
    report = planned()
    assert report["asked_per_second"] == 20
    assert report["enough"] == 2
    assert [row["replicas"] for row in report["rows"]] == [1, 2, 3, 4]
    rates = [row["answers_per_second"] for row in report["rows"]]
    assert rates[0] < 19 < rates[1]
    waits = [row["percentile_ms"] for row in report["rows"]]
    assert waits == sorted(waits, reverse=True)


def test_a_target_may_need_more() -> None:
    assert planned(target=0.4)["enough"] == 3
    hopeless = planned(edges=3, target=0.01)
    assert (hopeless["enough"], len(hopeless["rows"])) == (None, 3)


def test_the_bytes_are_those_of_the_log() -> None:
    """Always two looks, and never: what lies between are the local images."""
    always, never = planned(threshold=0.0, replicas=2), planned(threshold=1000.0, replicas=2)
    assert always["retransmission_rate"] > 0.9
    assert never["retransmission_rate"] == 0.0
    assert never["question_bytes"] < planned(replicas=2)["question_bytes"] < always["question_bytes"]
    (row,) = never["rows"]
    assert row["bytes_per_second"] == pytest.approx(never["question_bytes"] * row["answers_per_second"])


def test_the_command_shows_a_table_and_json(tmp_path: Path) -> None:
    output = tmp_path / "plan.json"
    arguments = ["plan", LOG, "--latency", LOAD, "--edges", 40, "--rate", 0.5, "--target", 0.4]
    result = CliRunner().invoke(command_line(), [*map(str, arguments), "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert "3 replicas are enough for 95 % of the answers within 0.4 s" in " ".join(result.stdout.split())
    last = json.loads(result.stdout.splitlines()[-1])
    assert last == json.loads(output.read_text(encoding="utf-8"))
    assert (
        last["measured_on"]["device"] == json.loads(LOAD.read_text(encoding="utf-8"))["environment"]["device"]
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read the measurement"),
        ("{", "cannot read"),
        ("[]", "is no measurement"),
        ("{}", "is no"),
    ],
)
def test_a_file_that_is_no_measurement_is_named(content: str | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(MeasurementError, match=told):
        planned(latency=path)


def test_a_measurement_of_something_else_is_said_to_be() -> None:
    with pytest.raises(MeasurementError, match=r"cannot be planned with: it has no load curve"):
        planned(latency=RESULTS / "kernels-cpu.json")
