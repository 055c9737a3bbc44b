"""How many servers so many edges need: what a log says of the questions, and a load curve of one server, put
together in a simulation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from secondlook.benchmarks.analysis.runs import read_run
from secondlook.benchmarks.commands import MeasurementError
from secondlook.benchmarks.options import PlanRun
from secondlook.benchmarks.queueing import Demand, LoadCurve, Served, simulate
from secondlook.edge.errors import SettingsError
from secondlook.engine.method.policy import Policy

_KEPT_UP: Final = 0.95
"""Of the questions that the edges would ask, this share at least is answered where replicas are enough."""

_MORE: Final = 2
"""Rows of a plan beyond the number that is needed."""


def plan(run: PlanRun) -> dict[str, Any]:
    """The report of `secondlook plan`.

    Raises:
        LogError, MeasurementError: a file cannot be used.
    """
    log = read_run(run.log)
    threshold = run.threshold if run.threshold is not None else float(log.made["threshold"])
    columns = log.columns
    unsure = (columns.first.uncertainty(Policy(threshold)) >= threshold) & columns.possible
    measured = _read(run.latency)
    curve = _curve(measured, run.latency)
    demand = Demand(run.edges, run.rate, tuple(unsure.tolist()), run.delay_ms / 1000)
    share = float(unsure.mean())
    question_bytes = float(columns.first.bytes.mean() + (columns.second.bytes * unsure).mean())
    rows, enough = list[dict[str, Any]](), None
    for replicas in [run.replicas] if run.replicas else range(1, run.edges + 1):
        served = simulate(curve, demand, replicas, run.questions, run.seed)
        row = _row(replicas, served, run, question_bytes)
        rows.append(row)
        if enough is None and _is_enough(row, run):
            enough = replicas
        if enough is not None and replicas >= enough + _MORE:
            break
    return {
        "enough": enough,
        "target": run.target,
        "retransmission_rate": share,
        "threshold": threshold,
        "asked_per_second": run.edges * run.rate,
        "question_bytes": question_bytes,
        "second": curve.second,
        "curve": [[edges, speed] for edges, speed in zip(curve.edges, curve.speed, strict=True)],
        "rows": rows,
        "measured_on": measured["environment"],
        "preset": measured["preset"],
        "log": run.log.name,
        "latency": run.latency.name,
    }


def _row(replicas: int, served: Served, run: PlanRun, question_bytes: float) -> dict[str, Any]:
    return {
        "replicas": replicas,
        "answers_per_second": served.answers_per_second,
        "p50_ms": served.percentile_ms(50),
        "p90_ms": served.percentile_ms(90),
        "percentile_ms": served.percentile_ms(run.percentile),
        "busy": served.busy,
        "looks": served.looks,
        "bytes_per_second": served.answers_per_second * question_bytes,
    }


def _is_enough(row: dict[str, Any], run: PlanRun) -> bool:
    """Whether edges are kept up with, and the percentile is within its target, where these are asked for."""
    kept_up = row["answers_per_second"] >= _KEPT_UP * run.edges * run.rate
    return kept_up and (run.target is None or row["percentile_ms"] <= 1000 * run.target)


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MeasurementError(f"cannot read the measurement {path}: {error}") from error
    if not isinstance(report, dict) or "environment" not in report:
        raise MeasurementError(f"{path} is no measurement of secondlook bench; give the file of --output")
    return report


def _curve(report: dict[str, Any], path: Path) -> LoadCurve:
    try:
        return LoadCurve.of(report)
    except SettingsError as error:
        raise MeasurementError(f"{path} cannot be planned with: {error}") from error
