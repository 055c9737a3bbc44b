"""What came of an evaluation at one threshold: accuracies, rates and bytes, by kind of question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from secondlook.benchmarks.analysis.columns import Columns
from secondlook.benchmarks.analysis.replay import Replay, choose_threshold
from secondlook.benchmarks.analysis.statistics import auroc
from secondlook.benchmarks.datasets.question import DataSet
from secondlook.benchmarks.datasets.scoring import pope_answer, pope_measures
from secondlook.benchmarks.run_log import Record
from secondlook.benchmarks.signs.questions import QuestionType
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


def summarise(data: DataSet, records: Sequence[Record], threshold: float) -> dict[str, Any]:
    """All measures of a run: of all its questions (of signs' reading questions), and of each kind of them."""
    policy, columns, signs = Policy(threshold), Columns.of(records), data.name == "signs"
    groups = _by_kind(columns)
    columns = groups["read"] if signs else columns
    by_type = {kind: measures(group, policy) for kind, group in groups.items()}
    found, sent = measures(columns, policy), bytes_sent(columns, policy)
    report: dict[str, Any] = {"data": data.name}
    if signs:
        by_type = {kind: by_type.get(kind, {"count": 0}) for kind in _SIGNS}
        report |= {"split": data.settings["split"], "seed": data.settings["seed"], "questions": len(records)}
    report |= {"threshold": threshold, **found}
    if signs:
        report["of_full"] = found["accuracy"] / max(1e-9, found["accuracy_full"])
        report["margin_over_random"] = Replay(columns, policy).margin_over_random()
    report |= {
        "bytes": sent,
        "extra_communication": sent["two_looks"] / sent["global"] - 1,
        "by_type": by_type,
    }
    if signs and report["split"] == "calibration":
        report["calibrated_threshold"] = choose_threshold(Replay(columns, policy))
    if data.name == "pope":
        report["pope"] = {kind: _pope(group, policy) for kind, group in groups.items()}
    return report


def summary_text(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    kinds, signs = report["by_type"], report["data"] == "signs"
    drawn = f", {report['split']} split, seed {report['seed']}" if signs else ""
    groups = kinds if signs or len(kinds) == 1 else {**kinds, "all": report}
    sent = report["bytes"]
    lines = [
        f"{report['data']}{drawn}: {report['questions' if signs else 'count']} questions",
        f"threshold {report['threshold']:.4g} (mean min-entropy, nats)",
        "",
        *kinds_lines(groups),
        "",
    ]
    if signs:
        lines.append(f"of full retransmission's accuracy {report['of_full']:8.1%}")
        lines.append(f"least margin over random          {report['margin_over_random']:8.3f}")
    lines += [
        f"bytes sent a question             {sent['two_looks']:8.0f}",
        f"  global image alone              {sent['global']:8.0f}",
        f"  the original                    {sent['original']:8.0f}",
    ]
    if "calibrated_threshold" in report:
        lines.append(f"calibrated threshold              {report['calibrated_threshold']:8.4f}")
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
