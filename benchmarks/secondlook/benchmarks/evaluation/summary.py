"""Evaluations, and what came of them at one threshold: accuracies, rates and bytes, by kind of question."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from secondlook.benchmarks.analysis.columns import Columns
from secondlook.benchmarks.analysis.replay import Replay, choose_threshold
from secondlook.benchmarks.analysis.statistics import auroc
from secondlook.benchmarks.datasets.scoring import pope_answer, pope_measures
from secondlook.benchmarks.evaluation.asking import Asking
from secondlook.benchmarks.evaluation.running import run
from secondlook.benchmarks.run_log import Record, Shard
from secondlook.benchmarks.signs.evaluation import signs_data_set
from secondlook.benchmarks.signs.questions import QuestionType
from secondlook.benchmarks.signs.scene import Split
from secondlook.engine.method.policy import Policy

_SIGNS: Final[tuple[QuestionType, ...]] = ("read", "exists", "describe")
_ROWS: Final = {
    "questions": "count",
    "accuracy, global image only": "accuracy_global",
    "accuracy, two looks": "accuracy",
    "accuracy, random second looks": "accuracy_random",
    "accuracy, always two looks": "accuracy_full",
    "  the same with arbitration": "accuracy_full_arbitrated",
    "retransmission rate": "retransmission_rate",
    "AUROC of doubt for a wrong answer": "auroc",
    "region holds what is asked for": "region_hit",
}


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
    """One full-retransmission run over `count` pictures (resumed from `log` if it is there), summarised."""
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
    groups = _by_kind(Columns.of(records))
    by_type = {kind: measures(groups[kind], policy) if kind in groups else {"count": 0} for kind in _SIGNS}
    replay, sent = Replay(groups["read"], policy), bytes_sent(groups["read"], policy)
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


def signs_text(report: dict[str, Any]) -> str:
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


def measures(columns: Columns, policy: Policy) -> dict[str, Any]:
    """Means over some questions.

    `accuracy_full` takes every second answer as it is; `accuracy` and `accuracy_full_arbitrated` keep the
    surer one. An answer is wrong, for the area under the ROC curve, if its score is below a half.
    """
    replay = Replay(columns, policy)
    outcome = replay.at(policy.threshold)
    hits = columns.hit[~np.isnan(columns.hit)]
    return {
        "count": len(columns),
        "accuracy_global": float(replay.first.mean()),
        "accuracy_full": float(replay.second.mean()),
        "accuracy_full_arbitrated": float(replay.kept.mean()),
        "accuracy": outcome.accuracy,
        "accuracy_random": outcome.accuracy_random,
        "retransmission_rate": outcome.retransmission_rate,
        "auroc": auroc(replay.uncertainty, replay.first < 0.5),
        "region_hit": float(hits.mean()) if len(hits) else None,
    }


def bytes_sent(columns: Columns, policy: Policy) -> dict[str, float]:
    """Mean bytes of a question's global image, of a local image, of both looks, and of the original."""
    return {
        "global": float(columns.first.bytes.mean()),
        "local": float(columns.second.bytes[columns.possible].mean()) if columns.possible.any() else 0.0,
        "two_looks": Replay(columns, policy).at(policy.threshold).bytes,
        "original": float(columns.original_bytes.mean()),
    }


def summarise(name: str, records: Sequence[Record], threshold: float) -> dict[str, Any]:
    """A run over an official data set: all its questions, each kind of them, and POPE's own measures."""
    policy, columns = Policy(threshold), Columns.of(records)
    sent, groups = bytes_sent(columns, policy), _by_kind(columns)
    report: dict[str, Any] = {
        "data": name,
        "threshold": threshold,
        **measures(columns, policy),
        "bytes": sent,
        "extra_communication": sent["two_looks"] / sent["global"] - 1,
        "by_type": {kind: measures(group, policy) for kind, group in groups.items()},
    }
    if name == "pope":
        report["pope"] = {kind: _pope(group, policy) for kind, group in groups.items()}
    return report


def summary_text(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    kinds = report["by_type"]
    groups = kinds if len(kinds) == 1 else {**kinds, "all": report}
    lines = [
        f"{report['data']}: {report['count']} questions",
        f"threshold {report['threshold']:.4g} (mean min-entropy, nats)",
        "",
        *kinds_lines(groups),
        "",
        *bytes_lines(report["bytes"]),
    ]
    for kind, looks in report.get("pope", {}).items():
        lines += ["", f"{kind:18}{'accuracy':>10}{'precision':>10}{'recall':>10}{'F1':>10}{'yes':>10}"]
        lines += [
            f"  {label:16}{''.join(f'{value:10.3f}' for value in found.values())}"
            for label, found in looks.items()
        ]
    return "\n".join(lines)


def kinds_lines(groups: dict[str, dict[str, Any]]) -> list[str]:
    """A column for each group of questions, from their `measures`."""
    widths = {kind: max(9, len(kind) + 1) for kind in groups}
    lines = [f"{'':34}{''.join(f'{kind:>{widths[kind]}}' for kind in groups)}"]
    for label, key in _ROWS.items():
        cells = (f"{_cell(values.get(key)):>{widths[kind]}}" for kind, values in groups.items())
        lines.append(f"{label:34}{''.join(cells)}")
    return lines


def bytes_lines(sent: dict[str, float]) -> list[str]:
    """From `bytes_sent`."""
    return [
        f"bytes sent a question             {sent['two_looks']:8.0f}",
        f"  global image alone              {sent['global']:8.0f}",
        f"  the original                    {sent['original']:8.0f}",
    ]


def _cell(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def _by_kind(columns: Columns) -> dict[str, Columns]:
    kinds = np.array(columns.kind)
    return {kind: columns.take(kinds == kind) for kind in sorted(set(columns.kind))}


def _pope(columns: Columns, policy: Policy) -> dict[str, dict[str, float]]:
    """POPE's measures of the answers that stand: of one look, of two at the threshold, of two always."""
    replay = Replay(columns, policy)
    second = {
        "global image": np.zeros(len(columns), np.bool_),
        "two looks": replay.looked(policy.threshold) & replay.surer,
        "always two looks": replay.possible,
    }
    texts, labels = (columns.first.text, columns.second.text), columns.truth
    said = {
        name: [pope_answer(texts[which][row]) for row, which in enumerate(chosen.astype(int).tolist())]
        for name, chosen in second.items()
    }
    return {name: pope_measures(answers, labels) for name, answers in said.items()}
