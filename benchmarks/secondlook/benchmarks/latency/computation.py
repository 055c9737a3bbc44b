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
        first_token, first_answer, region, final_answer: from the start of an unsure request to there.
        ratio: final_answer over the reference flow's.
        relative_computation_sure, relative_computation_unsure: over one plain answer from the global image
            (Song & Kim, arXiv 2512.16349).
        relative_computation: at the retransmission rate r, (1 - r) · sure + r · unsure.
    """

    flow: str
    first_token: int
    first_answer: int
    region: int
    final_answer: int
    ratio: float
    relative_computation_sure: float
    relative_computation_unsure: float
    relative_computation: float


def bench_flops(preset: Preset, new_tokens: int, retransmission_rate: float) -> dict[str, Any]:
    """Count a preset's FLOPs, without weights: the report, for JSON; at its top the ratios of ours."""
    lengths = Lengths.of(preset.layout, TYPICAL_QUESTION, new_tokens)
    rows = flow_rows(preset, lengths, retransmission_rate)
    ours = next(row for row in rows if row.flow == "ours")
    return {
        "flops_ratio": ours.ratio,
        "relative_computation": ours.relative_computation,
        "retransmission_rate": retransmission_rate,
        "preset": preset.name,
        "new_tokens": new_tokens,
        "prompt_tokens": asdict(lengths),
        "environment": environment("cpu", "none: shapes only"),
        "rows": [asdict(row) for row in rows],
        "passes": [asdict(count) for count in count_passes(preset, lengths)],
    }


def flow_rows(preset: Preset, lengths: Lengths, retransmission_rate: float) -> list[FlowRow]:
    """A row for each flow."""
    passes, layer = PassFlops(preset.config), preset.settings.probe_layer
    sure, unsure = (
        {flow: flow_work(flow, passes, lengths, layer, unsure=unsure) for flow in FLOWS}
        for unsure in (False, True)
    )
    plain = sure["reference"]["final_answer"].flops
    rows = []
    for flow, milestones in unsure.items():
        flops = {metric: done.flops for metric, done in milestones.items()}
        alone, twice = (work[flow]["final_answer"].flops / plain for work in (sure, unsure))
        rows.append(
            FlowRow(
                flow,
                flops["first_token"],
                flops["first_answer"],
                flops["region"],
                flops["final_answer"],
                ratio=flops["final_answer"] / unsure["reference"]["final_answer"].flops,
                relative_computation_sure=alone,
                relative_computation_unsure=twice,
                relative_computation=(1 - retransmission_rate) * alone + retransmission_rate * twice,
            )
        )
    return rows


def flops_text(report: Mapping[str, Any]) -> str:
    """A FLOPs report as tables for people."""
    lines = [f"{'pass':32}{'tokens':>8}{'keys':>8}{'GFLOP':>12}{'counted':>12}{'deviation':>11}"]
    lines += [
        f"{row['name']:32}{row['tokens']:8}{row['keys']:8}{row['analytic'] / 1e9:12.2f}"
        f"{row['counted'] / 1e9:12.2f}{row['deviation']:11.2%}"
        for row in report["passes"]
    ]
    lines += ["", f"{'flow, GFLOP':15}{'first token':>12}{'first answer':>14}{'region':>10}{'final':>10}"]
    lines[-1] += f"{'ratio':>8}{'relative computation':>26}{report['retransmission_rate']:>10.0%} not"
    lines += [
        f"{row['flow']:15}{row['first_token'] / 1e9:12.1f}{row['first_answer'] / 1e9:14.1f}"
        f"{row['region'] / 1e9:10.1f}{row['final_answer'] / 1e9:10.1f}{row['ratio']:8.3f}"
        f"{row['relative_computation_sure']:12.2f} sure{row['relative_computation_unsure']:5.2f} not"
        f"{row['relative_computation']:14.2f}"
        for row in report["rows"]
    ]
    return "\n".join(lines)
