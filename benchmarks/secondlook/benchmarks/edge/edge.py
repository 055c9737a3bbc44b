"""The edge benchmark's report: what preparing pictures costs on a device, beside doing it plainly."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import features
from rich.console import Console

from secondlook.benchmarks.commands import complete_rounds, progress
from secondlook.benchmarks.edge import measure
from secondlook.benchmarks.edge.measure import CAMERA_QUALITY, Case, ProcessCost, Round
from secondlook.benchmarks.options import EdgeRun
from secondlook.benchmarks.timing import milliseconds


def bench_edge(run: EdgeRun) -> dict[str, Any]:
    console = Console(stderr=True)
    # Nothing turns or moves on the screen while something is measured: a thread would do that.
    console.print("measuring the memory of processes ...")
    with tempfile.TemporaryDirectory() as folder:
        commands = list(measure.command_rows(run, Path(folder)))
        peaks = dict(measure.way_costs(run, Path(folder)))
    with progress(console, "rounds", run.warmups + run.rounds) as go_on:
        measured = measure.rounds(run)
        for _ in islice(measured, run.warmups):
            go_on()
        counted, interrupted = complete_rounds(measured, 1, go_on)
    rows = edge_rows(counted, peaks)
    return {
        "speedup_global_jpeg": headline(rows),
        "command_peak_mb": max(row["peak_mb"] for row in commands if not row["progressive"]),
        "rounds": len(counted),
        "interrupted": interrupted,
        "inputs": "every round has new pictures: backgrounds of signs; JPEGs of quality "
        f"{CAMERA_QUALITY}, 4:2:0; regions of 1.5 encoder sides",
        "libjpeg_turbo": features.version("libjpeg_turbo"),
        "commands": commands,
        "rows": rows,
    }


def edge_rows(rounds: Sequence[Round], peaks: Mapping[Case, ProcessCost]) -> list[dict[str, Any]]:
    """Both ways for every kind, size and thing to send; `speedup` is of the medians."""
    rows = []
    for case in rounds[0]:
        if case.way == "edge":
            edge, plain = (_cost(rounds, peaks, case._replace(way=way)) for way in ("edge", "plain"))
            rows.append(
                {
                    "kind": case.kind,
                    "megapixels": case.megapixels,
                    "sent": case.sent,
                    "speedup": plain["p50_ms"] / edge["p50_ms"],
                    "edge": edge,
                    "plain": plain,
                    "original_bytes": statistics.fmean(each[case].original_bytes for each in rounds),
                }
            )
    return sorted(rows, key=lambda row: row["kind"])


def headline(rows: Sequence[Mapping[str, Any]]) -> float:
    """The speedup of the global image of the largest JPEG."""
    rows = [row for row in rows if (row["kind"], row["sent"]) == ("jpeg", "global")]
    found: float = max(rows, key=lambda row: row["megapixels"])["speedup"]
    return found


def _cost(rounds: Sequence[Round], peaks: Mapping[Case, ProcessCost], case: Case) -> dict[str, float]:
    """Median CPU seconds, a process's peak in MB (10⁶ bytes), mean bytes sent."""
    samples = [each[case] for each in rounds]
    return {
        **milliseconds([sample.seconds for sample in samples], 50, 90),
        "cpu_seconds": statistics.median(sample.cpu_seconds for sample in samples),
        "peak_mb": peaks[case].peak_bytes / 1e6,
        "sent_bytes": statistics.fmean(sample.sent_bytes for sample in samples),
    }
