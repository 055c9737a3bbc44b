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


def measures(replay: Replay) -> dict[str, Any]:
    """Means over some questions, at the policy's threshold.

    `accuracy_full` takes every second answer as it is; `accuracy` and `accuracy_full_arbitrated` keep the
    surer one. An answer is wrong, for the area under the ROC curve, if its score is below a half.
    """
    outcome, hit = replay.at(replay.policy.threshold), replay.columns.hit
    hits = hit[~np.isnan(hit)]
    return {
        "count": len(replay.first),
        "accuracy_global": float(replay.first.mean()),
        "accuracy_full": float(replay.second.mean()),
        "accuracy_full_arbitrated": float(replay.kept.mean()),
        "accuracy": outcome.accuracy,
        "accuracy_random": outcome.accuracy_random,
        "retransmission_rate": outcome.retransmission_rate,
        "auroc": auroc(replay.uncertainty, replay.first < 0.5),
        "region_hit": float(hits.mean()) if len(hits) else None,
    }


def bytes_sent(replay: Replay) -> dict[str, float]:
    """Mean bytes of a question's global image, of a local image, of both looks, and of the original."""
    columns, possible = replay.columns, replay.possible
    return {
        "global": float(columns.first.bytes.mean()),
        "local": float(columns.second.bytes[possible].mean()) if possible.any() else 0.0,
        "two_looks": replay.at(replay.policy.threshold).bytes,
        "original": float(columns.original_bytes.mean()),
    }


def summarise(data: DataSet, records: Sequence[Record], threshold: float) -> dict[str, Any]:
    """All measures of a run: of all its questions (of signs' reading questions), and of each kind of them."""
    policy, columns, signs = Policy(threshold), Columns.of(records), data.name == "signs"
    kinds = np.array(columns.kind)
    groups = {kind: Replay(columns.take(kinds == kind), policy) for kind in sorted(set(columns.kind))}
    replay = groups["read"] if signs else Replay(columns, policy)
    by_type = {kind: measures(group) for kind, group in groups.items()}
    found, sent = measures(replay), bytes_sent(replay)
    report: dict[str, Any] = {"data": data.name}
    if signs:
        by_type = {kind: by_type.get(kind, {"count": 0}) for kind in _SIGNS}
        report |= {"split": data.settings["split"], "seed": data.settings["seed"], "questions": len(records)}
    report |= {"threshold": threshold, **found}
    if signs:
        report["of_full"] = found["accuracy"] / max(1e-9, found["accuracy_full"])
        report["margin_over_random"] = replay.margin_over_random()
    report |= {
        "bytes": sent,
        "extra_communication": sent["two_looks"] / sent["global"] - 1,
        "by_type": by_type,
    }
    only = replay.columns.baseline
    if only.lengths.all():
        names = {"accuracy": "score"} | {name: name for name in ("bytes", "pixels", "visual_tokens", "flops")}
        means = {name: float(getattr(only, key).mean()) for name, key in names.items()}
        report["baseline"] = {name: None if np.isnan(mean) else mean for name, mean in means.items()}
    if signs and report["split"] == "calibration":
        report["calibrated_threshold"] = choose_threshold(replay)
    if data.name == "pope":
        report["pope"] = {kind: _pope(group) for kind, group in groups.items()}
    return report


def _pope(replay: Replay) -> dict[str, dict[str, float]]:
    """POPE's measures of the answers that stand: of one look, of two at the threshold, of two always."""
    columns = replay.columns
    second = {
        "global image": np.zeros(len(columns), np.bool_),
        "two looks": replay.looked(replay.policy.threshold) & replay.surer,
        "always two looks": replay.possible,
    }
    texts, labels = (columns.first.text, columns.second.text), columns.truth
    said = {
        name: [pope_answer(texts[which][row]) for row, which in enumerate(chosen.astype(int).tolist())]
        for name, chosen in second.items()
    }
    return {name: pope_measures(answers, labels) for name, answers in said.items()}
