"""The results of `secondlook bench latency`, `flops`, `load` and `prefill` as the README shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from secondlook.benchmarks.documents import digits
from secondlook.benchmarks.latency.summary import agreement_text, tail

__all__ = ["speed_markdown"]

_METRICS: Final = {
    "first_token": "first token",
    "per_token": "each further token",
    "first_answer": "first answer",
    "region": "region",
    "final_answer": "final answer",
}
_FLOWS: Final = {
    "reference": "reference",
    "strong": "stronger",
    "encoding_once": "encoding once",
    "ours": "secondlook",
}

Report = dict[str, Any]


def speed_markdown(reports: Sequence[Report]) -> str:
    """For each report a line on what it was measured on, and its table.

    Raises:
        ValueError: one is of none of these benchmarks.
    """
    return "\n\n".join(_shown(report) for report in reports) + "\n"


def _shown(report: Report) -> str:
    kinds: dict[str, Callable[[Report], str]] = {
        "speedup_reference": _latency,
        "flops_ratio": _flops,
        "speedup_sequential": _load,
        "two_passes": _prefill,
    }
    for sign, show in kinds.items():
        if sign in report:
            return show(report)
    raise ValueError(f"a report has none of {', '.join(kinds)}: it is of another benchmark")


def _latency(report: Report) -> str:
    rows = {(row["request"], row["metric"], row["flow"]): row for row in report["rows"]}
    memory = {(row["request"], row["flow"]): row["extra_bytes"] for row in report["memory"]}
    slow, slow_key = tail(report)
    flows = [f"{name}, ms" for name in _FLOWS.values()]
    lines = [
        f"| request | until | {' | '.join(flows)} | 90 % | {slow} | ceiling, ms |",
        f"| --- | --- |{' ---: |' * (len(flows) + 3)}",
    ]
    for request in ("unsure", "sure"):
        for metric, name in _METRICS.items():
            found = {flow: rows.get((request, metric, flow)) for flow in _FLOWS}
            if not any(found.values()) or (request, metric) == ("sure", "final_answer"):
                continue
            ours = found["ours"]
            cells = [digits(row["p50_ms"]) if row else "-" for row in found.values()]
            more = [digits(ours[key]) if ours else "-" for key in ("p90_ms", slow_key, "ceiling_ms")]
            lines.append(f"| {request} | {name} | {' | '.join([*cells, *more])} |")
    extra = [f"{memory['unsure', flow] / 2**20:.0f} MiB" for flow in _FLOWS]
    lines.append(f"| unsure | extra memory | {' | '.join(extra)} | | | |")
    counts = {row["count"] for row in report["rows"]}
    encoded = " with ONNX Runtime for secondlook's pictures" if report.get("vision") == "onnx" else ""
    return (
        f"**Latency**, `{report['preset']}`, {report['new_tokens']} tokens an answer: an unsure request's "
        f"final answer comes {report['speedup_reference']:.2f} times as fast as by the reference flow, "
        f"{report['speedup_strong']:.2f} times as by the stronger one, {report['speedup_encoding_once']:.2f} "
        f"times as by encoding once. {agreement_text(report['agreement']['ours'])} equal the reference "
        f"flow's. Medians of {min(counts)} requests of each kind{encoded}, {_on(report)}; secondlook's slots "
        f"hold {report['slots_bytes'] / 2**20:.0f} MiB:\n\n" + "\n".join(lines)
    )


def _flops(report: Report) -> str:
    titles = ("flow", "first answer, GFLOP", "final answer, GFLOP", "of the reference")
    shares = f"sure | unsure | {report['retransmission_rate']:.0%} unsure"
    lines = [
        f"| {' | '.join(titles)} | relative computation, {shares} |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {_FLOWS[row['flow']]} | {digits(row['first_answer'] / 1e9)} "
        f"| {digits(row['final_answer'] / 1e9)} | {row['ratio']:.3f} "
        f"| {row['relative_computation_sure']:.2f} | {row['relative_computation_unsure']:.2f} "
        f"| {row['relative_computation']:.2f} |"
        for row in report["rows"]
    ]
    worst = max(0.0001, *(abs(row["deviation"]) for row in report["passes"]))
    return (
        f"**FLOPs**, `{report['preset']}`, {report['new_tokens']} tokens an answer, an unsure request, "
        f"commit {report['environment']['commit'] or 'unknown'}; the formulas are within {worst:.2%} of "
        f"torch's own count of each pass:\n\n" + "\n".join(lines)
    )


def _load(report: Report) -> str:
    lines = [
        "| edges | answers a second | of one edge's | median, ms | 90 % | 99 % | refused | failed |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['edges']} | {digits(row['answers_per_second'])} | {row['speedup']:.2f} "
        f"| {digits(row['p50_ms'])} | {digits(row['p90_ms'])} | {digits(row['p99_ms'])} "
        f"| {row['refusals']} | {row['failures']} |"
        for row in report["rows"]
    ]
    return (
        f"**Load**, `{report['preset']}`, {report['new_tokens']} tokens an answer, "
        f"{report['retransmission_rate']:.0%} of the questions looked at twice, {report['delay_ms']:g} ms of "
        f"network each way, {_on(report)}:\n\n" + "\n".join(lines)
    )


def _prefill(report: Report) -> str:
    titles = ("both questions in one pass, ms", "a short pass for the generic one, ms", "its ceiling, ms")
    lines = [
        f"| request | {' | '.join(titles)} | speed-up |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['request']} | {digits(row['one_pass_ms'])} | {digits(row['two_passes_ms'])} "
        f"| {digits(row['ceiling_ms'])} | {row['speedup']:.3f} |"
        for row in report["rows"]
    ]
    return (
        f"**Prefill**, `{report['preset']}`, without the vision encoder: medians of {report['repeats']}, "
        f"{_on(report)}:\n\n" + "\n".join(lines)
    )


def _on(report: Report) -> str:
    on = report["environment"]
    return (
        f"{on['dtype']} on {on['device']} ({report['threads']} CPU threads), torch {on['torch']}, "
        f"transformers {on['transformers']}, commit {on['commit'] or 'unknown'}"
    )
