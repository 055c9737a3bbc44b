"""Gates beside doubt, on a log that they were not fitted on: what equal accuracy costs, and equal bytes give.

What second looks send is counted as extra communication: bytes of local images over those of global images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from secondlook.benchmarks.analysis.columns import FloatArray
from secondlook.benchmarks.analysis.curves import NEAR, Cost, cheapest, oracle
from secondlook.benchmarks.analysis.replay import Replay, advantage
from secondlook.benchmarks.analysis.runs import Run, read_run
from secondlook.benchmarks.analysis.statistics import Bootstrap, Estimate, auroc, interval
from secondlook.benchmarks.options import GateRun
from secondlook.benchmarks.run_log import LogError, refusing
from secondlook.edge.errors import SettingsError
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.policy_file import PolicyFile, read_policy

_DOUBT: Final = "doubt"
"""What gates are compared with: the same policy without one."""
_GRID: Final = 400
"""Steps from no second look to all, that curves are compared at."""
_DIGITS: Final = 6
"""Of the curves in a report."""


def bench_gate(run: GateRun) -> dict[str, Any]:
    return compare_gates(read_run(run.log), run.policy)


def compare_gates(run: Run, policies: Sequence[Path]) -> dict[str, Any]:
    """What each policy's gate gives on a log, and what doubt alone gives; for JSON.

    Raises:
        LogError: the log is one that a policy was calibrated on.
        SettingsError: a policy has no gate, or is not to be compared with the others.
        PolicyFileError: a policy is not one, or is for another model.
    """
    files = [read_policy(path) for path in policies]
    for path, each in zip(policies, files, strict=True):
        _check(run, path, each)
    found = [each.policy for each in files]
    alone = [replace(each, threshold=0.0, gate=None) for each in found]
    aims = [each.gate.aim for each in found if each.gate is not None]
    if any(each != alone[0] for each in alone) or len(set(aims)) < len(aims):
        raise SettingsError("gates are compared that differ in their aim, and in nothing else of the policy")
    boot = Bootstrap(run.columns.picture)
    replays = {_DOUBT: Replay(run.columns, alone[0])}
    replays |= {aim: Replay(run.columns, policy) for aim, policy in zip(aims, found, strict=True)}
    doubt, least = replays[_DOUBT], _least(replays, boot)
    return {
        "data": run.header.settings["data"],
        "model": run.made.get("model"),
        "log": run.digest,
        "pictures": len(boot.drawn[0]),
        "questions": len(run.columns),
        "measure": alone[0].measure,
        "near": NEAR,
        "full": asdict(boot.mean(doubt.second)),
        "always": asdict(boot.ratio(*(getattr(_extra(doubt), part) for part in ("extra", "unit")))),
        "oracle": cheapest(oracle(doubt.first, doubt.gain, _extra(doubt)), float(doubt.second.mean()) - NEAR),
        "deciding": {
            name: {
                "least": asdict(_estimate(least[name])),
                "auroc": auroc(replay.need[replay.possible], replay.gain[replay.possible] > 0),
                "curve": _curve(replay, boot),
            }
            for name, replay in replays.items()
        },
        "gates": {
            aim: {
                "fitted_on": {name: getattr(policy.gate, name) for name in ("pictures", "questions")},
                "saved": asdict(_estimate(1 - least[aim] / least[_DOUBT])),
                "worst": _worst(replays[aim], doubt, boot),
                "served": _served(replays[aim], policy, file, boot),
            }
            for aim, policy, file in zip(aims, found, files, strict=True)
        },
    }


def _check(run: Run, path: Path, file: PolicyFile) -> None:
    if file.gate is None:
        raise SettingsError(f"{path} has no gate; write one with secondlook calibrate threshold --gate")
    if run.digest in file.calibrated_on.logs:
        raise LogError(f"{path} was calibrated on {run.path}, where it flatters itself; take another log")
    model = run.header.settings["model"]
    with refusing(run.path):
        where, name = model.get("localisation") or {}, str(run.made.get("model"))
    file.check_model(name, model["weights"], model["dtype"], where)


def _extra(replay: Replay) -> Cost:
    first, second = replay.columns.first.bytes, replay.columns.second.bytes
    return Cost(np.zeros_like(first), second, first)


def _least(replays: Mapping[str, Replay], boot: Bootstrap) -> dict[str, FloatArray]:
    """Of each, the least extra communication that nearly has the accuracy of always looking twice: on the log
    and then on each resample, the same ones for all. NaN: none has it."""
    weights = [np.ones(len(boot.picture)), *boot.weights()]
    found = {}
    for name, replay in replays.items():
        full = [float(each @ replay.second / each.sum()) for each in weights]
        lines = (replay.trade_off.line(_extra(replay), each) for each in weights)
        found[name] = np.array([cheapest(line, most - NEAR) for line, most in zip(lines, full, strict=True)])
    return found


def _estimate(values: FloatArray) -> Estimate:
    return interval(float(values[0]), values[1:])


def _curve(replay: Replay, boot: Bootstrap) -> dict[str, list[float]]:
    band = replay.trade_off.band(_extra(replay), boot)
    accuracy = replay.trade_off.line(_extra(replay)).at(band.cost)
    lines = {"cost": band.cost, "accuracy": accuracy, "low": band.low, "high": band.high}
    return {name: np.round(each, _DIGITS).tolist() for name, each in lines.items()}


def _worst(gate: Replay, doubt: Replay, boot: Bootstrap) -> dict[str, Any]:
    """Where, at equal bytes, the gate falls most behind doubt, and by how much accuracy."""
    lines = [replay.trade_off.line(_extra(replay)) for replay in (gate, doubt)]
    grid = np.linspace(0.0, lines[1].cost[-1], _GRID + 1)
    place = float(grid[(lines[0].at(grid) - lines[1].at(grid)).argmin()])
    return {"extra_bytes": place, "better": asdict(advantage(gate, doubt, _extra, place, boot))}


def _served(replay: Replay, policy: Policy, file: PolicyFile, boot: Bootstrap) -> dict[str, Any]:
    """What comes of the policy's own threshold here, beside what was expected of it. Wrong answers without a
    second look are counted as for the bound, one question a picture: here in expectation."""
    looked, sent = replay.looked(policy.threshold), replay.sent
    stands = np.where(looked, replay.kept, replay.first)
    rate, accuracy, spent = boot.means(looked.astype(np.float64), stands, sent.base + looked * sent.extra)
    unrefined = ~looked / np.bincount(boot.picture)[boot.picture]
    wrong = boot.ratio(unrefined * (replay.first < 0.5), unrefined)
    here = {"retransmission_rate": rate, "accuracy": accuracy, "bytes": spent}
    return {
        "threshold": policy.threshold,
        "here": {name: asdict(each) for name, each in here.items()},
        "expected": {name: each.model_dump() for name, each in file.expected.items()},
        "wrong_unrefined": asdict(wrong),
        "bound": file.wrong_unrefined.bound,
    }
