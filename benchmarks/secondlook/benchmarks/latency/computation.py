"""The FLOPs benchmark: what each flow computes, beside the reference flow and beside one plain answer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from secondlook.benchmarks.commands import settings
from secondlook.benchmarks.environment import environment
from secondlook.benchmarks.latency.subject import Preset
from secondlook.benchmarks.latency.work import TYPICAL_QUESTION, Lengths, work_of
from secondlook.benchmarks.options import FlopsRun


def bench_flops(preset: Preset, run: FlopsRun) -> dict[str, Any]:
    """Count a preset's FLOPs, without weights: the report, for JSON; at its top the ratios of ours."""
    lengths = Lengths.of(preset, TYPICAL_QUESTION, run.new_tokens)
    rows = flow_rows(preset, lengths, run.retransmission_rate)
    ours = next(row for row in rows if row["flow"] == "ours")
    return {
        "flops_ratio": ours["ratio"],
        "relative_computation": ours["relative_computation"],
        **settings(run),
        "prompt_tokens": asdict(lengths),
        "environment": environment("cpu", "none: shapes only"),
        "rows": rows,
    }


def flow_rows(preset: Preset, lengths: Lengths, retransmission_rate: float) -> list[dict[str, Any]]:
    """FLOPs of each flow, from the start of an unsure request to each milestone.

    Relative computation is over one plain answer from the global image (Song & Kim, arXiv 2512.16349): of
    sure requests, of unsure ones, and at the retransmission rate r, (1 - r) · sure + r · unsure.
    """
    work = work_of(preset, lengths)
    plain, published = (work[unsure]["reference"]["final_answer"].flops for unsure in (False, True))
    rows = []
    for flow, milestones in work[True].items():
        flops = {str(metric): done.flops for metric, done in milestones.items()}
        alone, twice = (work[unsure][flow]["final_answer"].flops / plain for unsure in (False, True))
        rows.append(
            {
                "flow": flow,
                **flops,
                "ratio": flops["final_answer"] / published,
                "relative_computation_sure": alone,
                "relative_computation_unsure": twice,
                "relative_computation": (1 - retransmission_rate) * alone + retransmission_rate * twice,
            }
        )
    return rows
