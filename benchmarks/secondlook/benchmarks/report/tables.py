"""The results of measurements as the documents show them: what each was measured on, and its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from secondlook.benchmarks.analysis.replay import replay_text
from secondlook.benchmarks.edge.summary import AIM_PEAK_MB, AIM_SPEEDUP
from secondlook.benchmarks.latency.summary import agreement_text, tail
from secondlook.benchmarks.report.document import NONE, digits, markdown_table, share

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
_KINDS: Final = {"jpeg": "JPEG", "raw": "raw frame"}


def headline(signs: Report, latency: Report, load: Report) -> str:
    """One table of what is gained and what it costs, each figure with the command that measures it."""
    sent, edges = signs["bytes"], load["rows"][-1]["edges"]
    by_signs, by_latency, by_load = "eval signs --seed 4242", "bench latency", "bench load"
    times = f"{sent['original'] / sent['two_looks']:.0f} times less than the original"
    rows = (
        ("accuracy, one look", _measure(signs, "accuracy_global"), by_signs),
        ("accuracy, two looks", _measure(signs, "accuracy"), by_signs),
        ("accuracy, always two looks", _measure(signs, "accuracy_full"), by_signs),
        ("questions looked at twice", _measure(signs, "retransmission_rate"), by_signs),
        ("second look's bytes over the first's", f"{signs['extra_communication']:.2f}", by_signs),
        ("sent a question", f"{sent['two_looks'] / 1e3:.1f} kB, {times}", by_signs),
        ("AUROC of uncertainty for a wrong answer", _measure(signs, "auroc"), by_signs),
        ("the region holds what is asked for", _measure(signs, "region_hit"), by_signs),
        ("answer after two looks, beside the published flow", _faster(latency, "reference"), by_latency),
        (
            "the same, beside the strongest flow of transformers",
            _faster(latency, "encoding_once"),
            by_latency,
        ),
        (f"answers a second to {edges} edges, of one edge's", f"{load['speedup_sequential']:.2f}", by_load),
    )
    table = markdown_table(("", "measured", "by `secondlook …`"), ((a, b, f"`{c}`") for a, b, c in rows), 3)
    on = {name: of["environment"]["device"] for name, of in (("latency", latency), ("load", load))}
    return (
        f"Accuracy and bytes are of the embedded model's reading questions ({signs['count']}); latency is of "
        f"`{latency['preset']}`, load of `{load['preset']}`, with {latency['environment']['dtype']}. "
        f"Accuracy on {signs['environment']['device']}; latency on {on['latency']}; load on {on['load']}."
        f"\n\n{table}\n"
    )


def _faster(report: Report, flow: str) -> str:
    return f"{report[f'speedup_{flow}']:.2f} times as fast"


def results(report: Report) -> str:
    """`eval signs` by type of question, the bytes sent, and which aims were missed."""
    by_type = [report["by_type"][kind] for kind in ("read", "exists", "describe")]
    rows = [["questions", *(str(values["count"]) for values in by_type), ""]]
    rows += [
        [label, *(_measure(values, key) for values in by_type), AIMS.get(key, "")]
        for key, label in _ROWS.items()
    ]
    titles = ("", "read a number", "is there a sign", "describe", "aim (reading)")
    sent = {name: f"{count / 1000:.1f} kB" for name, count in report["bytes"].items()}
    times = report["bytes"]["original"] / report["bytes"]["two_looks"]
    names = [_ROWS[key] for key in missed(report)]
    on = report["environment"]
    return (
        f"{markdown_table(titles, rows, len(titles))}\n\n"
        f"A reading question took {sent['two_looks']} with two looks ({sent['global']} for the global image, "
        f"{sent['local']} for each local one); the originals have {sent['original']} each, {times:.0f} times "
        f"as much.\n\nTwo looks reach {share(report['of_full'])} of the accuracy of always two looks; over "
        "random retransmission the least margin, for rates from 5 to 95 %, is "
        f"{100 * report['margin_over_random']:.1f} points. "
        + (f"**Not reached: {'; '.join(names)}.**" if names else "Every aim is reached.")
        + f"\n\nMeasured on {on['device']} ({on['cores']} cores), {on['dtype']}, torch {on['torch']}, "
        f"transformers {on['transformers']}, commit {on['commit']}, with a threshold of "
        f"{report['threshold']:.4g} nats.\n"
    )


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


def _measure(values: Mapping[str, float | None], key: str) -> str:
    value = values[key]
    return NONE if value is None else f"{value:.3f}" if key == "auroc" else share(value)


def budget(report: Report) -> str:
    """`bench budget`: streams and rates."""
    rates = list(dict.fromkeys(rate for stream in report["streams"].values() for rate in stream))
    rows = [
        [name, *(_kept(stream.get(rate)) for rate in rates)] for name, stream in report["streams"].items()
    ]
    return (
        f"Points that the retransmission rate was off its target at worst, over any {report['window']} "
        f"questions after the first {report['warm_up']}; in brackets points of accuracy lost to thresholds "
        f"fixed for each {report['window']} questions at the same rates. {report['repeats']} streams of each "
        f"kind, drawn from {report['questions']} questions. At most half a point is lost in "
        f"{report['within_half_a_point']} of {report['cells']} cases, "
        f"{100 * report['mean_loss_in_blocks']:.2f} points in the mean. Commit {_commit(report)}."
        f"\n\n{markdown_table(['stream', *(f'{float(rate):.0%}' for rate in rates)], rows)}\n"
    )


def _kept(cell: dict[str, float] | None) -> str:
    return "" if cell is None else f"{100 * cell['worst_deviation']:.1f} ({100 * cell['loss_in_blocks']:.1f})"


def edge(report: Report) -> str:
    """`bench edge`."""
    on = report["environment"]
    largest = max(row["megapixels"] for row in report["rows"])
    (progressive,) = (row["peak_mb"] for row in report["commands"] if row["progressive"])
    columns: dict[str, Callable[[Report], str]] = {
        "ms": lambda row: digits(row["edge"]["p50_ms"]),
        "90 %": lambda row: digits(row["edge"]["p90_ms"]),
        "plain, ms": lambda row: digits(row["plain"]["p50_ms"]),
        "faster": lambda row: f"{row['speedup']:.2f}x",
        "CPU s": lambda row: digits(row["edge"]["cpu_seconds"]),
        "plain, CPU s": lambda row: digits(row["plain"]["cpu_seconds"]),
        "peak, MB": lambda row: f"{row['edge']['peak_mb']:.0f}",
        "plain, MB": lambda row: f"{row['plain']['peak_mb']:.0f}",
        "kB": lambda row: digits(row["edge"]["sent_bytes"] / 1e3),
        "plain, kB": lambda row: digits(row["plain"]["sent_bytes"] / 1e3),
        "of the original": lambda row: f"{row['edge']['sent_bytes'] / row['original_bytes']:.2%}",
    }
    rows = [
        (
            f"{row['megapixels']:g} MP {_KINDS[row['kind']]}",
            row["sent"],
            *(cell(row) for cell in columns.values()),
        )
        for row in report["rows"]
    ]
    return (
        f"The global image of a {largest:g}-megapixel JPEG is made {report['speedup_global_jpeg']:.1f} times "
        f"as fast as plainly (aim: {AIM_SPEEDUP:g}). `secondlook-edge` takes at most "
        f"{report['command_peak_mb']:.0f} MB for both looks at such a picture (aim: {AIM_PEAK_MB:g}), "
        f"{progressive:.0f} MB if the JPEG is progressive. A raw frame is copied when it is opened, for the "
        "camera may overwrite it, and its JPEGs are compressed in two passes: with a local image alone, both "
        f"show. Medians of {report['rounds']} pictures, for an encoder of {report['image_size']} pixels "
        f"(`{report['resize_mode']}`), on {on['device']}, Pillow {on['pillow']}, "
        f"libjpeg-turbo {report['libjpeg_turbo']}, Python {on['python']}, commit {_commit(report)}:"
        f"\n\n{markdown_table(('picture', 'sent', *columns), rows, 2)}\n"
    )


def vision(report: Report) -> str:
    """`bench vision`."""
    on = report["environment"]
    titles = (
        "encoder",
        "pictures",
        "ms",
        "90 %, ms",
        "beside torch float32",
        "relative error",
        "small enough",
    )
    rows = [
        (
            row["encoder"],
            str(row["batch"]),
            digits(row["p50_ms"]),
            digits(row["p90_ms"]),
            f"{row['speedup']:.2f}x",
            f"{row['relative_error']:.1e}",
            "yes" if row["passes"] else "no",
        )
        for row in report["rows"]
    ]
    return (
        f"The vision encoder of `{report['preset']}` with random weights, medians of {report['repeats']}, on "
        f"{on['device']} ({report['threads']} CPU threads), torch {on['torch']}, ONNX Runtime "
        f"{on['onnxruntime'] or 'unknown'}, commit {_commit(report)}:\n\n{markdown_table(titles, rows)}\n"
    )


def operators(report: Report) -> str:
    """`bench kernels`."""
    on = report["environment"]
    kind = "Reference" if report["implementation"] == "reference" else "Compiled"
    times = ("microseconds", "composition_microseconds", "floor_microseconds")
    rows = [
        (
            f"`{row['operator']}`",
            row["shape"],
            row["dtype"],
            *(digits(row[time]) for time in times),
            f"{row['speedup']:.1f}x",
        )
        for row in report["rows"]
    ]
    titles = ("operator", "shape", "dtype", "µs", "PyTorch, µs", "floor, µs", "speedup")
    return (
        f"{kind} operators on {on['device']} ({report['threads']} CPU threads), torch {on['torch']}, "
        f"commit {_commit(report)}; a large copy moves {report['copy_gigabytes_per_second']:.0f} GB/s:"
        f"\n\n{markdown_table(titles, rows, 3)}\n"
    )


def speed(report: Report) -> str:
    """`bench latency`, `flops`, `load`, `prefill` or `replay`.

    Raises:
        ValueError: it is of none of these.
    """
    kinds: dict[str, Callable[[Report], str]] = {
        "speedup_reference": _latency,
        "flops_ratio": _flops,
        "speedup_sequential": _load,
        "two_passes": _prefill,
        "seconds_replaying": _replay,
    }
    for sign, show in kinds.items():
        if sign in report:
            return show(report) + "\n"
    raise ValueError(f"a report has none of {', '.join(kinds)}: it is of another benchmark")


def _latency(report: Report) -> str:
    found = {(row["request"], row["metric"], row["flow"]): row for row in report["rows"]}
    memory = {(row["request"], row["flow"]): row["extra_bytes"] for row in report["memory"]}
    slow, slow_key = tail(report)
    rows = []
    for request in ("unsure", "sure"):
        for metric, name in _METRICS.items():
            each = {flow: found.get((request, metric, flow)) for flow in _FLOWS}
            if not any(each.values()) or (request, metric) == ("sure", "final_answer"):
                continue
            cells = [digits(row["p50_ms"]) if row else NONE for row in each.values()]
            ours = each["ours"]
            more = [digits(ours[key]) if ours else NONE for key in ("p90_ms", slow_key, "ceiling_ms")]
            rows.append([request, name, *cells, *more])
    extra = [f"{memory['unsure', flow] / 2**20:.0f} MiB" for flow in _FLOWS]
    rows.append(["unsure", "extra memory", *extra, "", "", ""])
    titles = ("request", "until", *(f"{name}, ms" for name in _FLOWS.values()), "90 %", slow, "ceiling, ms")
    encoded = " with ONNX Runtime for secondlook's pictures" if report.get("vision") == "onnx" else ""
    return (
        f"**Latency**, `{report['preset']}`, {report['new_tokens']} tokens an answer: an unsure request's "
        f"final answer comes {_faster(report, 'reference')} as by the reference flow, "
        f"{report['speedup_strong']:.2f} times as by the stronger one, {report['speedup_encoding_once']:.2f} "
        f"times as by encoding once. {agreement_text(report['agreement']['ours'])} equal the reference "
        f"flow's. Medians of {min(row['count'] for row in report['rows'])} requests of each kind{encoded}, "
        f"{_on(report)}; secondlook's slots hold {report['slots_bytes'] / 2**20:.0f} MiB:"
        f"\n\n{markdown_table(titles, rows, 2)}"
    )


def _flops(report: Report) -> str:
    titles = ("flow", "first answer, GFLOP", "final answer, GFLOP", "of the reference")
    shares = ("relative computation, sure", "unsure", f"{report['retransmission_rate']:.0%} unsure")
    ratios = ("relative_computation_sure", "relative_computation_unsure", "relative_computation")
    rows = [
        [
            _FLOWS[row["flow"]],
            *(digits(row[answer] / 1e9) for answer in ("first_answer", "final_answer")),
            f"{row['ratio']:.3f}",
            *(f"{row[ratio]:.2f}" for ratio in ratios),
        ]
        for row in report["rows"]
    ]
    worst = max(0.0001, *(abs(row["deviation"]) for row in report["passes"]))
    return (
        f"**FLOPs**, `{report['preset']}`, {report['new_tokens']} tokens an answer, an unsure request, "
        f"commit {_commit(report)}; the formulas are within {worst:.2%} of torch's own count of each pass:"
        f"\n\n{markdown_table((*titles, *shares), rows)}"
    )


def _load(report: Report) -> str:
    titles = ("edges", "answers a second", "of one edge's", "median, ms", "90 %", "99 %", "refused", "failed")
    rows = [
        [
            str(row["edges"]),
            digits(row["answers_per_second"]),
            f"{row['speedup']:.2f}",
            *(digits(row[time]) for time in ("p50_ms", "p90_ms", "p99_ms")),
            *(str(row[count]) for count in ("refusals", "failures")),
        ]
        for row in report["rows"]
    ]
    return (
        f"**Load**, `{report['preset']}`, {report['new_tokens']} tokens an answer, "
        f"{report['retransmission_rate']:.0%} of the questions looked at twice, {report['delay_ms']:g} ms of "
        f"network each way, {_on(report)}:\n\n{markdown_table(titles, rows, 0)}"
    )


def _prefill(report: Report) -> str:
    titles = ("both questions in one pass, ms", "a short pass for the generic one, ms", "its ceiling, ms")
    times = ("one_pass_ms", "two_passes_ms", "ceiling_ms")
    rows = [
        [row["request"], *(digits(row[time]) for time in times), f"{row['speedup']:.3f}"]
        for row in report["rows"]
    ]
    return (
        f"**Prefill**, `{report['preset']}`, without the vision encoder: medians of {report['repeats']}, "
        f"{_on(report)}:\n\n{markdown_table(('request', *titles, 'speed-up'), rows)}"
    )


def _replay(report: Report) -> str:
    return (
        f"**Replay**: {replay_text(report)}, on {report['environment']['device']}, commit {_commit(report)}."
    )


def _on(report: Report) -> str:
    on = report["environment"]
    return (
        f"{on['dtype']} on {on['device']} ({report['threads']} CPU threads), torch {on['torch']}, "
        f"transformers {on['transformers']}, commit {_commit(report)}"
    )


def _commit(report: Report) -> str:
    return report["environment"]["commit"] or "unknown"
