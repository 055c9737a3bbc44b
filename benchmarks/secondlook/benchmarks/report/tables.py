"""The results of measurements as the documents show them: `templates/tables.md` has the words and columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from secondlook.benchmarks.report.document import NONE, digits, escaped, share, templates
from secondlook.engine.method.policy_file import PolicyFile

Report = dict[str, Any]

AIMS: Final[dict[str, tuple[str, float, float]]] = {
    "accuracy_global": ("50 to 70 %", 0.50, 0.70),
    "accuracy": ("98 % of that with always two looks", 0.98, 1e9),
    "accuracy_full": ("93 %", 0.93, 1),
    "retransmission_rate": ("at most 50 %", 0, 0.50),
    "auroc": ("0.90", 0.90, 1),
    "region_hit": ("92 %", 0.92, 1),
}
"""What the embedded model was made for, for reading questions: in words, at least, at most."""

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
    "high_resolution": "in tiles",
    "ours": "secondlook",
}
_PEERS: Final = {
    "first_token_ms": "first token, ms",
    "per_token_ms": "each further token, ms",
    "final_ms": "answer, ms",
    "two_looks_ms": "two looks, ms",
    "answers_per_second": "answers a second",
}
_MEASURES: Final = {
    "count": "questions",
    "accuracy_global": "accuracy, global image only",
    "accuracy": "accuracy, two looks",
    "accuracy_random": "accuracy, random second looks",
    "accuracy_full": "accuracy, always two looks",
    "accuracy_full_arbitrated": "the same with arbitration",
    "retransmission_rate": "retransmission rate",
    "auroc": "AUROC of doubt for a wrong answer",
    "region_hit": "region holds what is asked for",
}


def headline(signs: Report, latency: Report, load: Report) -> str:
    """One table of what is gained and what it costs, each figure with the command that measures it."""
    return _written("headline", signs, latency, load)


def results(report: Report) -> str:
    """`eval signs` by type of question, the bytes sent, and which aims were missed."""
    by_type = [report["by_type"][kind] for kind in ("read", "exists", "describe")]
    rows = []
    for key, label in _MEASURES.items():
        cells = (_cell(values[key], _figure if key == "auroc" else share) for values in by_type)
        rows.append([label, *cells, AIMS.get(key, [""])[0]])
    told = [_MEASURES[key] for key in missed(report)]
    return _written("results", report, report["environment"], rows, told)


def missed(report: Report) -> list[str]:
    """Which of the aims a report does not reach, as keys of `AIMS`."""
    reached = {**report, "accuracy": report["of_full"]}
    return [key for key, (_, least, most) in AIMS.items() if not least <= reached[key] <= most]


def evaluation(report: Report) -> str:
    """`eval` of any data set, as it is printed: a column for each kind of question."""
    groups = report["by_type"]
    if report["data"] != "signs" and len(groups) > 1:
        groups = {**groups, "all": report}
    rows = [
        [label, *(_cell(values.get(key)) for values in groups.values())] for key, label in _MEASURES.items()
    ]
    return _written("evaluation", report, list(map(escaped, groups)), rows)


def calibration(policy: PolicyFile) -> str:
    """`calibrate`, as it is printed."""
    return _written("calibration", policy)


def measured(kind: str, report: Report) -> str:
    """What one of `secondlook bench`'s commands reports."""
    more: tuple[object, ...] = ()
    if kind == "latency":
        there = {row["flow"] for row in report["rows"]}
        flows = {flow: name for flow, name in _FLOWS.items() if flow in there}
        more = (flows, _latency_rows(report, flows), _tail(report)[0])
    elif kind == "flops":
        more = (_FLOWS,)
    elif kind == "peers":
        there = {row["peer"] for row in report["rows"]} | report["missing"].keys()
        engines = {peer: name for peer, name in (_FLOWS | {"vllm": "vLLM"}).items() if peer in there}
        more = (engines, _peer_rows(report, engines))
    elif kind == "stream":
        from secondlook.benchmarks.report.document import part_lines
        from secondlook.benchmarks.report.streams import accuracy_table, cost_table

        delay = report["rows"][0]["delay"]
        more = (part_lines([accuracy_table(report, intervals=False), cost_table(report, delay)], ""),)
    elif kind == "gate":
        from secondlook.benchmarks.report.document import part_lines
        from secondlook.benchmarks.report.gating import parts

        text, tables, _ = parts(report)
        more = ([text, *part_lines(tables, "")],)
    return _written(kind, report, report["environment"], *more)


_figure: Final = "{:.3f}".format


def _cell(value: float | None, told: Callable[[float], str] = _figure) -> str:
    return NONE if value is None else str(value) if isinstance(value, int) else told(value)


def _tail(report: Report) -> tuple[str, str]:
    """Title and key of the column of slow requests: fewer than 100 have no 99th percentile."""
    few = min(row["count"] for row in report["rows"]) < 100
    return ("slowest", "max_ms") if few else ("99 %", "p99_ms")


def _latency_rows(report: Report, flows: Mapping[str, str]) -> list[list[str]]:
    found = {(row["request"], row["metric"], row["flow"]): row for row in report["rows"]}
    memory = {(row["request"], row["flow"]): row["extra_bytes"] for row in report["memory"]}
    slow = _tail(report)[1]
    rows = []
    for request in ("unsure", "sure"):
        for metric, name in _METRICS.items():
            each = {flow: found.get((request, metric, flow)) for flow in flows}
            if not any(each.values()) or (request, metric) == ("sure", "final_answer"):
                continue
            cells = [digits(row["p50_ms"]) if row else NONE for row in each.values()]
            ours = each["ours"]
            more = [digits(ours[key]) if ours else NONE for key in ("p90_ms", slow, "ceiling_ms")]
            rows.append([request, name, *cells, *more])
    extra = [f"{memory['unsure', flow] / 2**20:.0f} MiB" for flow in flows]
    return [*rows, ["unsure", "extra memory", *extra, "", "", ""]]


def _peer_rows(report: Report, engines: Mapping[str, str]) -> list[list[str]]:
    from secondlook.benchmarks.peers.rows import times_as_fast

    found = {(r["precision"], r["busy"], r["metric"], r["peer"]): r["median"] for r in report["rows"]}
    times = times_as_fast(report["rows"])
    rows = []
    for precision, busy, metric in dict.fromkeys(cell[:3] for cell in found):
        beside = [each for cell, each in times.items() if cell[:3] == (precision, busy, metric)]
        cells = [_cell(found.get((precision, busy, metric, peer)), digits) for peer in engines]
        least = f"{min(beside):.2f}" if beside else NONE
        rows.append([precision, str(busy), _PEERS[metric], *cells, least])
    return rows


def _written(macro: str, *values: object) -> str:
    environment = templates()
    environment.filters |= {"as": format, "digits": digits, "share": share, "escaped": escaped}
    written: str = getattr(environment.get_template("tables.md").module, macro)(*values)
    return written
