"""The FLOPs benchmark: what each flow computes, beside the reference flow and beside one plain answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from secondlook.benchmarks.environment import environment
from secondlook.benchmarks.latency.counting import count_passes
from secondlook.benchmarks.latency.flops import PassFlops
from secondlook.benchmarks.latency.presets import Preset
from secondlook.benchmarks.latency.work import FLOWS, TYPICAL_QUESTION, Lengths, flow_work

__all__ = ["FlowRow", "bench_flops", "flops_text"]


@dataclass(frozen=True)
class FlowRow:
    """FLOPs of one flow.

    Attributes:
        first_token, first_answer, region, final_answer: from the start of an unsure request to there; a sure
            request ends with the first answer.
        ratio: final_answer over the reference flow's.
        relative_computation_sure, relative_computation_unsure: over one plain answer from the global image
            (Song & Kim, arXiv 2512.16349). At a retransmission rate r the relative computation is
            (1 - r) · sure + r · unsure.
    """

    flow: str
    first_token: int
    first_answer: int
    region: int
    final_answer: int
    ratio: float
    relative_computation_sure: float
    relative_computation_unsure: float


def bench_flops(preset: Preset, new_tokens: int) -> dict[str, Any]:
    """Count a preset's FLOPs, without weights: the report, for JSON."""
    lengths = Lengths.of(preset.layout, TYPICAL_QUESTION, new_tokens)
    rows = flow_rows(preset, lengths)
    return {
        "flops_ratio": next(row.ratio for row in rows if row.flow == "ours"),
        "preset": preset.name,
        "new_tokens": new_tokens,
        "prompt_tokens": asdict(lengths),
        "environment": environment("cpu", "none: shapes only"),
        "rows": [asdict(row) for row in rows],
        "passes": [asdict(count) for count in count_passes(preset, lengths)],
    }


def flow_rows(preset: Preset, lengths: Lengths) -> list[FlowRow]:
    """A row for each flow."""
    passes = PassFlops(preset.config)
    work = {flow: flow_work(flow, passes, lengths, preset.settings.probe_layer) for flow in FLOWS}
    plain = work["reference"]["first_answer"].flops
    rows = []
    for flow, milestones in work.items():
        flops = {metric: done.flops for metric, done in milestones.items()}
        rows.append(
            FlowRow(
                flow,
                flops["first_token"],
                flops["first_answer"],
                flops["region"],
                flops["final_answer"],
                ratio=flops["final_answer"] / work["reference"]["final_answer"].flops,
                relative_computation_sure=flops["first_answer"] / plain,
                relative_computation_unsure=flops["final_answer"] / plain,
            )
        )
    return rows


def flops_text(report: Mapping[str, Any]) -> str:
    """A FLOPs report as tables for people."""
    lines = [f"{'pass':24}{'tokens':>8}{'keys':>8}{'GFLOP':>12}{'counted':>12}{'deviation':>11}"]
    lines += [
        f"{row['name']:24}{row['tokens']:8}{row['keys']:8}{row['analytic'] / 1e9:12.2f}"
        f"{row['counted'] / 1e9:12.2f}{row['deviation']:11.2%}"
        for row in report["passes"]
    ]
    lines += ["", f"{'flow, GFLOP':12}{'first token':>12}{'first answer':>14}{'region':>10}{'final':>10}"]
    lines[-1] += f"{'ratio':>8}{'relative computation':>24}"
    lines += [
        f"{row['flow']:12}{row['first_token'] / 1e9:12.1f}{row['first_answer'] / 1e9:14.1f}"
        f"{row['region'] / 1e9:10.1f}{row['final_answer'] / 1e9:10.1f}{row['ratio']:8.3f}"
        f"{row['relative_computation_sure']:12.2f} sure{row['relative_computation_unsure']:5.2f} not"
        for row in report["rows"]
    ]
    return "\n".join(lines)
