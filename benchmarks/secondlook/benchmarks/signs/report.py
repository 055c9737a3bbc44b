"""Run an evaluation on signs, and say what came out of it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secondlook.benchmarks.evaluation.asking import Asking
from secondlook.benchmarks.evaluation.running import run
from secondlook.benchmarks.evaluation.summary import bytes_lines, bytes_sent, kinds_lines, measures
from secondlook.benchmarks.records import Record
from secondlook.benchmarks.replay import Replay, choose_threshold
from secondlook.benchmarks.run_log import Shard
from secondlook.benchmarks.signs.evaluation import signs_data_set
from secondlook.benchmarks.signs.questions import QuestionType
from secondlook.benchmarks.signs.scene import Split
from secondlook.engine.method.policy import Policy

__all__ = ["report_text", "run_signs", "summarise_signs"]

_TYPES: tuple[QuestionType, ...] = ("read", "exists", "describe")


def run_signs(
    seed: int,
    count: int,
    split: Split = "test",
    asking: Asking | None = None,
    threshold: float | None = None,
    log: Path | None = None,
    shard: Shard | None = None,
    processes: int | None = None,
) -> dict[str, Any]:
    """One full-retransmission run over `count` pictures (resumed from `log` if it is there), summarised.

    Raises:
        LogError: `log` is of another run.
        ModelError: the model cannot be loaded.
    """
    if threshold is not None:
        Policy(threshold)  # refuses what is none before the long work
    with contextlib.ExitStack() as stack:
        if log is None:
            log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "signs.jsonl"
        data = signs_data_set(split, seed, count)
        done = run(data, asking or Asking(), log, shard=shard, processes=processes)
    threshold = done.threshold if threshold is None else threshold
    return {**summarise_signs(done.records, seed, split, threshold), **done.described}


def summarise_signs(records: Sequence[Record], seed: int, split: Split, threshold: float) -> dict[str, Any]:
    """All measures of a run: fractions over its reading questions, and by type of question."""
    policy = Policy(threshold)
    by_type = {
        kind: measures([record for record in records if record.type == kind], policy) for kind in _TYPES
    }
    reading = [record for record in records if record.type == "read"]
    replay, sent = Replay(reading, policy), bytes_sent(reading, policy)
    report: dict[str, Any] = {
        "data": "signs",
        "split": split,
        "seed": seed,
        "questions": len(records),
        "threshold": threshold,
        **by_type["read"],
        "of_full": by_type["read"]["accuracy"] / max(1e-9, by_type["read"]["accuracy_full"]),
        "margin_over_random": replay.margin_over_random(),
        "bytes": sent,
        "extra_communication": sent["two_looks"] / sent["global"] - 1,
        "by_type": by_type,
    }
    if split == "calibration":
        report["calibrated_threshold"] = choose_threshold(replay)
    return report


def report_text(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    lines = [
        f"signs, {report['split']} split, seed {report['seed']}: {report['questions']} questions",
        f"threshold {report['threshold']:.4g} (mean min-entropy, nats)",
        "",
        *kinds_lines(report["by_type"]),
        "",
        f"of full retransmission's accuracy {report['of_full']:8.1%}",
        f"least margin over random          {report['margin_over_random']:8.3f}",
        *bytes_lines(report["bytes"]),
    ]
    if "calibrated_threshold" in report:
        lines.append(f"calibrated threshold              {report['calibrated_threshold']:8.4f}")
    return "\n".join(lines)
