"""Two runs of the same questions that look closer in different places: what equal bytes give, and regions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np

from secondlook.benchmarks.analysis.groups import region_quality
from secondlook.benchmarks.analysis.replay import Replay, advantage
from secondlook.benchmarks.analysis.runs import Run, read_family
from secondlook.benchmarks.analysis.statistics import Bootstrap
from secondlook.benchmarks.run_log import LogError, refusing
from secondlook.edge.validation import from_json
from secondlook.engine.method.policy import Policy
from secondlook.engine.models.settings import Localisation

_SHARES: Final = (0.1, 0.25, 0.5, 1.0)
"""Of the bytes that all local images of the first run take."""


def compare(logs: Sequence[Path]) -> dict[str, Any]:
    """The second log beside the first, of the pictures that are in both, with arbitration; for JSON.

    `better` is the second less the first, question by question, with the interval of that.
    """
    if len(set(logs)) != 2:
        raise LogError(f"there are two logs to compare, not {logs[0]} alone")
    family = read_family(logs, "model.localisation")
    own, other = replays = [Replay(run.columns, Policy(0.0)) for run in family.compared]
    boot = Bootstrap(own.columns.picture)
    lines = [replay.trade_off.line(replay.sent) for replay in replays]
    made, settings = family.main.made, family.main.header.settings
    where = [_where(run) for run in family.runs]
    differing = [key for key in where[1] if where[0][key] != where[1][key]]
    if not differing:
        raise LogError(
            f"{logs[0]} and {logs[1]} look closer in the same places, so there is nothing to compare"
        )
    rows = [
        {
            "bytes": at,
            "accuracy": [float(line.at(at)) for line in lines],
            "better": asdict(advantage(other, own, attrgetter("sent"), at, boot)),
        }
        for at in np.interp(_SHARES, (0, 1), lines[0].cost[[0, -1]]).tolist()
    ]
    regions = [region_quality(replay, boot) for replay in replays]
    return {
        "data": family.data,
        "model": made.get("model"),
        "questions": len(own.columns),
        "left_out": family.left_out,
        "logs": [run.digest for run in family.runs],
        "localisation": [{key: one[key] for key in differing} for one in where],
        "at_bytes": rows,
        "always": [asdict(one) for one in boot.means(own.kept, other.kept, other.kept - own.kept)],
        "local_bytes": [float(one.columns.second.bytes[one.possible].mean()) for one in replays],
        "regions": [
            {name: asdict(getattr(one, name)) for name in ("hit", "covered", "area")}
            for one in regions
            if one
        ],
        "environment": made | settings.get("versions", {}) | {"dtype": settings["model"]["dtype"]},
    }


def _where(run: Run) -> dict[str, Any]:
    """Where a run's model looks closer; what its log leaves out, an older one, is the default."""
    with refusing(run.path):
        return from_json(Localisation, json.dumps(run.header.settings["model"]["localisation"])).to_json()
