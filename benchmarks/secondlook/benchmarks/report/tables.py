"""The results of measurements as the documents show them: `templates/tables.md` has the words and columns."""

from __future__ import annotations

from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from secondlook.benchmarks.edge.edge import AIM_PEAK_MB, AIM_SPEEDUP
from secondlook.benchmarks.latency.summary import agreement_text, tail
from secondlook.benchmarks.report.document import NONE, digits, share

Report = dict[str, Any]

AIMS: Final = {
    "accuracy_global": "50 to 70 %",
    "accuracy": "98 % of that with always two looks",
    "accuracy_full": "93 %",
    "retransmission_rate": "at most 50 %",
    "auroc": "0.90",
    "region_hit": "92 %",
}
"""What the embedded model was made for, for reading questions."""

_ROWS: Final = {
    "accuracy_global": "accuracy from the global image",
    "accuracy": "accuracy with two looks",
    "accuracy_random": "accuracy with as many second looks at random",
    "accuracy_full": "accuracy with always two looks",
    "retransmission_rate": "retransmission rate",
    "auroc": 'area under the ROC curve of uncertainty for "the first answer is wrong"',
    "region_hit": "the region holds the asked sign's centre",
}
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
_SPEED: Final = {
    "speedup_reference": "latency",
    "flops_ratio": "flops",
    "speedup_sequential": "load",
    "two_passes": "prefill",
    "seconds_replaying": "replay",
}
"""What only a report of one kind has → the kind."""


def headline(signs: Report, latency: Report, load: Report) -> str:
    """One table of what is gained and what it costs, each figure with the command that measures it."""
    return _written("headline", signs, latency, load)


def results(report: Report) -> str:
    """`eval signs` by type of question, the bytes sent, and which aims were missed."""
    by_type = [report["by_type"][kind] for kind in ("read", "exists", "describe")]
    rows = [["questions", *(values["count"] for values in by_type), ""]]
    for key, label in _ROWS.items():
        cells = [NONE if (one := values[key]) is None else share(one) for values in by_type]
        cells = [f"{values[key]:.3f}" for values in by_type] if key == "auroc" else cells
        rows.append([label, *cells, AIMS.get(key, "")])
    return _written("results", report, report["environment"], rows, [_ROWS[key] for key in missed(report)])


def missed(report: Report) -> list[str]:
    """Which of the aims a report does not reach, as keys of `AIMS`."""
    reached = {
        "accuracy_global": 0.50 <= report["accuracy_global"] <= 0.70,
        "accuracy": report["of_full"] >= 0.98,
        "accuracy_full": report["accuracy_full"] >= 0.93,
        "retransmission_rate": report["retransmission_rate"] <= 0.50,
        "auroc": report["auroc"] >= 0.90,
        "region_hit": report["region_hit"] >= 0.92,
    }
    return [key for key, yes in reached.items() if not yes]


def budget(report: Report) -> str:
    """`bench budget`: streams and rates."""
    rates = list(dict.fromkeys(rate for stream in report["streams"].values() for rate in stream))
    return _written("budget", report, report["environment"], rates)


def edge(report: Report) -> str:
    """`bench edge`."""
    aims = {"speedup": AIM_SPEEDUP, "peak_mb": AIM_PEAK_MB}
    return _written("edge", report, report["environment"], aims)


def vision(report: Report) -> str:
    """`bench vision`."""
    return _written("vision", report, report["environment"])


def operators(report: Report) -> str:
    """`bench kernels`."""
    return _written("operators", report, report["environment"])


def speed(report: Report) -> str:
    """`bench latency`, `flops`, `load`, `prefill` or `replay`."""
    kind = next((kind for sign, kind in _SPEED.items() if sign in report), None)
    if kind is None:
        raise ValueError(f"a report has none of {', '.join(_SPEED)}: it is of another benchmark")
    more: tuple[object, ...] = ()
    if kind == "latency":
        more = (_latency_rows(report), tail(report)[0], agreement_text(report["agreement"]["ours"]))
    elif kind == "flops":
        more = (_FLOWS,)
    return _written(kind, report, report["environment"], *more)


def _latency_rows(report: Report) -> list[list[str]]:
    found = {(row["request"], row["metric"], row["flow"]): row for row in report["rows"]}
    memory = {(row["request"], row["flow"]): row["extra_bytes"] for row in report["memory"]}
    slow = tail(report)[1]
    rows = []
    for request in ("unsure", "sure"):
        for metric, name in _METRICS.items():
            each = {flow: found.get((request, metric, flow)) for flow in _FLOWS}
            if not any(each.values()) or (request, metric) == ("sure", "final_answer"):
                continue
            cells = [digits(row["p50_ms"]) if row else NONE for row in each.values()]
            ours = each["ours"]
            more = [digits(ours[key]) if ours else NONE for key in ("p90_ms", slow, "ceiling_ms")]
            rows.append([request, name, *cells, *more])
    extra = [f"{memory['unsure', flow] / 2**20:.0f} MiB" for flow in _FLOWS]
    return [*rows, ["unsure", "extra memory", *extra, "", "", ""]]


def _written(macro: str, *values: object) -> str:
    loader = PackageLoader("secondlook.benchmarks.report")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"as": format, "digits": digits, "share": share}
    written: str = getattr(environment.get_template("tables.md").module, macro)(*values)
    return written
