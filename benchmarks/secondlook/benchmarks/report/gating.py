"""Gates beside doubt (`bench gate`), as documents and reports show them: words, tables and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from secondlook.benchmarks.analysis.curves import Band
from secondlook.benchmarks.analysis.gating import compare_gates
from secondlook.benchmarks.analysis.statistics import Estimate
from secondlook.benchmarks.report.document import Plot, Section, Table, number, percent, points, share
from secondlook.benchmarks.report.plots import Series, draw_lines
from secondlook.benchmarks.report.study import MEASURES, Study

Report = dict[str, Any]

_LEAST_SAVED: Final = 0.1
_MOST_LOST: Final = 0.003
_SHOWN: Final = 0.03
"""Of accuracy, below that of always looking twice: where curves part."""
_AIMS: Final = ("fitted on", "least extra bytes", "saved", "worst at equal bytes, points", "area under ROC")


def section(study: Study, policies: Sequence[Path]) -> Section:
    """Of a report's main log."""
    text, tables, plot = parts(compare_gates(study.run, policies))
    return Section("A gate on gain", tuple(text.split("\n\n")), (plot, *tables))


def parts(report: Report) -> tuple[str, list[Table], Plot]:
    """What was compared, and whether the aims were reached; tables; accuracy against extra bytes."""
    data, near = report["data"], f"{100 * report['near']:g} point"
    which = ", ".join(f"{name} {data[name]}" for name in ("split", "seed") if name in data)
    text = (
        f"{report['questions']} questions about {report['pictures']} pictures of {data['name']}"
        f"{which and f' ({which})'}, asked of {report['model']}; the gates were fitted on other pictures. "
        f"Always looking twice is right at {percent(Estimate(**report['full']))}, for "
        f"{number(Estimate(**report['always']), 2)} extra bytes; the best choice of second looks is within "
        f"{near} of that for {report['oracle']:.3f}."
    )
    return f"{text}\n\n{_verdict(report)}", [_equals(report), _served(report)], _plot(report)


def _verdict(report: Report) -> str:
    told = []
    for aim, gate in report["gates"].items():
        saved, worst = Estimate(**gate["saved"]), Estimate(**gate["worst"]["better"])
        enough = saved.value >= _LEAST_SAVED and saved.low > 0
        told.append(
            f"The gate on {aim}: at least {share(_LEAST_SAVED, 0)} fewer extra bytes at equal accuracy, with "
            f"an interval above 0, {_REACHED[enough]}; never more than {100 * _MOST_LOST:g} points behind at "
            f"equal bytes, {_REACHED[worst.value >= -_MOST_LOST]}."
        )
    return " ".join(told)


_REACHED: Final = {True: "reached", False: "missed"}


def _equals(report: Report) -> Table:
    """At equal accuracy, and at equal bytes."""
    rows = []
    for name, found in report["deciding"].items():
        gate = report["gates"].get(name)
        cells = ("", "", "")
        if gate is not None:
            worst = gate["worst"]
            cells = (
                f"{gate['fitted_on']['questions']} questions",
                percent(Estimate(**gate["saved"])),
                f"{points(Estimate(**worst['better']), 2)} at {worst['extra_bytes']:.2f}",
            )
        least = number(Estimate(**found["least"]))
        rows.append((_named(report, name), cells[0], least, *cells[1:], f"{found['auroc']:.3f}"))
    note = (
        f"Least extra bytes: of local images over those of global images, within {100 * report['near']:g} "
        "point of the accuracy of always looking twice. Area under ROC: of what decides, for a second look "
        "that gains."
    )
    return Table(("decided by", *_AIMS), tuple(rows), note)


def _served(report: Report) -> Table:
    """Each policy's own threshold: what it was to give, and what it gives here."""
    rows = []
    for aim, gate in report["gates"].items():
        served = gate["served"]
        here, expected, wrong = served["here"], served["expected"], served["wrong_unrefined"]
        for name, told in (("retransmission_rate", percent), ("accuracy", percent), ("bytes", _bytes)):
            title = f"{_named(report, aim)}, {name.replace('_', ' ')}"
            rows.append((title, told(Estimate(**expected[name])), told(Estimate(**here[name]))))
        title = f"{_named(report, aim)}, wrong without a second look, one question a picture"
        rows.append((title, f"at most {share(served['bound'])}", percent(Estimate(**wrong))))
    return Table(("at the policy's threshold", "expected", "here"), tuple(rows))


def _plot(report: Report) -> Plot:
    series, full = list[Series](), report["full"]["value"]
    for name, found in report["deciding"].items():
        curve = np.array([found["curve"][key] for key in ("cost", "accuracy", "low", "high")])
        cost, accuracy, low, high = curve[:, curve[1] >= full - _SHOWN]
        series.append(Series(_named(report, name), cost, accuracy, Band(cost, low, high)))
    return Plot(
        "gate",
        "What decides: doubt, or a gate on gain",
        f"Accuracy from {100 * _SHOWN:g} points below always looking twice on, against extra communication: "
        "bytes of local images over those of global images. Each curve is every threshold of what decides.",
        draw_lines(series, "extra communication (bytes)"),
    )


def _named(report: Report, name: str) -> str:
    if name in report["gates"]:
        return f"gate on {name}"
    return next(told for told, measure in MEASURES.items() if measure == report["measure"])


def _bytes(estimate: Estimate) -> str:
    return number(estimate, 0)
