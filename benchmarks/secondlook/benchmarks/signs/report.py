"""Run an evaluation on signs with its log and progress, and say what came out of it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from secondlook.benchmarks.environment import environment
from secondlook.benchmarks.records import Record, RunLog
from secondlook.benchmarks.replay import Replay, auroc, choose_threshold
from secondlook.benchmarks.signs.evaluation import evaluate
from secondlook.benchmarks.signs.questions import QuestionType
from secondlook.benchmarks.signs.scene import Split
from secondlook.engine.cli import draws_bars, loading_status
from secondlook.engine.loading import DType, load_model
from secondlook.engine.policy import Policy

__all__ = ["report_text", "run_signs", "summarise"]

_TYPES: tuple[QuestionType, ...] = ("read", "exists", "describe")


def run_signs(
    seed: int,
    count: int,
    split: Split = "test",
    model: str = "demo",
    dtype: str = "auto",
    threshold: float | None = None,
    log: Path | None = None,
    processes: int | None = None,
) -> dict[str, Any]:
    """One full-retransmission run over `count` pictures (resumed from `log` if it is there), summarised.

    Raises:
        LogError: `log` is of another run.
        ModelError: the model cannot be loaded.
    """
    kind: DType = dtype  # type: ignore[assignment]  # load_model refuses what is none
    with loading_status(model):
        adapter = load_model(model, dtype=kind, progress=draws_bars(model))
    if threshold is None:
        threshold = adapter.settings.threshold
    Policy(threshold)  # refuses what is none before the long work
    # Any threshold can be replayed from a log; whatever else a checkpoint sets changes what is logged.
    settings = {name: value for name, value in asdict(adapter.settings).items() if name != "threshold"}
    measured = {"model": adapter.name, "weights": adapter.digest(), "settings": settings}
    header = {"run": "signs", "split": split, "seed": seed, "dtype": str(adapter.dtype), **measured}
    with contextlib.ExitStack() as stack:
        if log is None:
            log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "signs.jsonl"
        run_log = stack.enter_context(contextlib.closing(RunLog(log, header)))
        done = run_log.done()
        missing = [index for index in range(count) if index not in done]
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        progress = stack.enter_context(Progress(*columns, console=Console(stderr=True)))
        task = progress.add_task("pictures", total=count, completed=count - len(missing))
        workers = min(processes or os.cpu_count() or 1, max(1, len(missing)))
        for records in evaluate(model, split, seed, missing, workers, dtype):
            run_log.append(records)
            progress.advance(task)
        records = [record for record in run_log.records if record.index < count]
    report = summarise(records, seed, split, threshold)
    dtype_name = str(adapter.dtype).removeprefix("torch.")
    shapes = {"image_size": adapter.image_size, "grid": list(adapter.grid)}
    return {**report, **measured, **shapes, "environment": environment(str(adapter.device), dtype_name)}


def summarise(records: Sequence[Record], seed: int, split: Split, threshold: float) -> dict[str, Any]:
    """All measures of a run: fractions over its reading questions, and by type of question.

    `accuracy_full` takes every second answer as it is; `accuracy` and `accuracy_full_arbitrated` keep the
    surer one.
    """
    policy = Policy(threshold)
    by_type = {
        kind: _measures([record for record in records if record.type == kind], policy) for kind in _TYPES
    }
    reading = [record for record in records if record.type == "read"]
    replay = Replay(reading, policy)
    originals = float(np.mean([record.original_bytes for record in reading]))
    outcome = replay.at(threshold)
    report: dict[str, Any] = {
        "data": "signs",
        "split": split,
        "seed": seed,
        "questions": len(records),
        "threshold": threshold,
        **by_type["read"],
        "of_full": outcome.accuracy / max(1e-9, by_type["read"]["accuracy_full"]),
        "margin_over_random": replay.margin_over_random(),
        "bytes": {
            "global": float(np.mean([record.first.bytes for record in reading])),
            "local": float(np.mean([record.second.bytes for record in reading if record.second] or [0])),
            "two_looks": outcome.bytes,
            "original": originals,
        },
        "extra_communication": outcome.bytes / float(np.mean([record.first.bytes for record in reading])) - 1,
        "by_type": by_type,
    }
    if split == "calibration":
        report["calibrated_threshold"] = choose_threshold(replay)
    return report


def _measures(records: Sequence[Record], policy: Policy) -> dict[str, Any]:
    if not records:
        return {"count": 0}
    replay = Replay(records, policy)
    outcome = replay.at(policy.threshold)
    hits = [record.region_hit for record in records if record.region_hit is not None]
    return {
        "count": len(records),
        "accuracy_global": float(replay.first.mean()),
        "accuracy_full": float(replay.second.mean()),
        "accuracy_full_arbitrated": float(replay.kept.mean()),
        "accuracy": outcome.accuracy,
        "accuracy_random": outcome.accuracy_random,
        "retransmission_rate": outcome.retransmission_rate,
        "auroc": auroc(replay.uncertainty, replay.first < 0.5),
        "region_hit": float(np.mean(hits)) if hits else None,
    }


def report_text(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    lines = [
        f"signs, {report['split']} split, seed {report['seed']}: {report['questions']} questions",
        f"threshold {report['threshold']:.4g} (mean min-entropy, nats)",
        "",
        f"{'':34}{'read':>9}{'exists':>9}{'describe':>9}",
    ]
    rows = {
        "questions": "count",
        "accuracy, global image only": "accuracy_global",
        "accuracy, two looks": "accuracy",
        "accuracy, random second looks": "accuracy_random",
        "accuracy, always two looks": "accuracy_full",
        "  the same with arbitration": "accuracy_full_arbitrated",
        "retransmission rate": "retransmission_rate",
        "AUROC of doubt for a wrong answer": "auroc",
        "region holds the sign's centre": "region_hit",
    }
    for label, key in rows.items():
        values = [report["by_type"][kind].get(key) for kind in _TYPES]
        cells = [
            "-" if value is None else f"{value:.3f}" if key != "count" else str(value) for value in values
        ]
        lines.append(f"{label:34}{cells[0]:>9}{cells[1]:>9}{cells[2]:>9}")
    sent = report["bytes"]
    lines += [
        "",
        f"of full retransmission's accuracy {report['of_full']:8.1%}",
        f"least margin over random          {report['margin_over_random']:8.3f}",
        f"bytes sent a question             {sent['two_looks']:8.0f}",
        f"  global image alone              {sent['global']:8.0f}",
        f"  the original                    {sent['original']:8.0f}",
    ]
    if "calibrated_threshold" in report:
        lines.append(f"calibrated threshold              {report['calibrated_threshold']:8.4f}")
    return "\n".join(lines)
