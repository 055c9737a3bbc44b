"""`bench stream` as the documents show it: tables and plots over the cloud's delay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from secondlook.benchmarks.analysis.curves import Band
from secondlook.benchmarks.analysis.statistics import Estimate
from secondlook.benchmarks.report.document import NONE, Plot, Table, percent, points, share
from secondlook.benchmarks.report.plots import Series, draw_lines

Report = dict[str, Any]

NAMES: Final = {
    "small": "small model alone",
    "large": "large model alone, newest answer held",
    "large_gated": "the same, doubtful answers left out",
    "offload": "offloading by deadline",
    "partition": "large model, split",
    "switch": "switch",
    "switch_ungated": "switch, doubtful cloud answers taken",
    "switch_memory": "switch with memory",
    "belief": "belief",
    "belief_doubt": "belief, key frames by doubt",
    "replace": "context replacement",
    "focus_own": "focus, own tracking",
    "focus_known": "focus, known motion",
    "focus_still": "focus, region left where it was",
    "memory": "memory without a cloud",
}

_PLOTTED: Final = ("switch", "switch_memory", "belief", "focus_own", "focus_known", "offload")
_COMPARED: Final = ("small", "large")
_BANDED: Final = frozenset({"belief", "focus_known", "large"})
_NETWORKS: Final = {
    "constant": "constant delays",
    "lognormal": "log-normal delays",
    "trace": "a trace of wandering delays with losses",
}

_COSTS_AT: Final = 1.0
"""The delay, in seconds, that costs are told for."""

Rows = Mapping[tuple[str, float], dict[str, Any]]


def sections(report: Report) -> tuple[str, list[Table], list[Plot]]:
    """What was run, in words; tables; plots. All of constant delays, and of others the accuracies alone."""
    on, split, recorded = report["environment"], report["partition"], report["recorded"]
    models = recorded["models"]
    same = recorded["small"] == recorded["large"]
    who = (
        f"`{recorded['small']}` with one look is the small model, with two looks the large one"
        if same
        else f"`{recorded['small']}` is the small model, `{recorded['large']}` with two looks the large one"
    )
    loss = f", {report['loss']:.0%} of messages lost" if report["loss"] else ""
    text = (
        f"{_NETWORKS[report['network']].capitalize()}{loss}; at most {report['in_flight']} under way at "
        f"once. {report['streams']} streams, {report['frames']} frames, seed {recorded['seed']}; "
        f"{who}, in {models['small']['dtype']}; 95 % intervals by stream. Replayed with commit "
        f"{on['commit'] or 'unknown'}."
    )
    if report["network"] != "constant":
        return text, [accuracy_table(report, intervals=False)], plots(report)[:1]
    note = (
        f"At a delay of {_COSTS_AT:g} s. Key frames: share of the frames that the cloud is asked about. "
        "Bytes: of pictures, that leave the camera, and the site for the cloud. Held: frames with no answer "
        "of their own by the deadline of 0.2 s. Of the right: age of the newest capture that was answered "
        "rightly. Mended: from a change of the number to the first right answer. The split was run in two "
        f"processes on {split['frames']} frames: {split['bytes_whole'] / 1e3:.0f} kB of features for a whole "
        f"frame, {split['bytes_region'] / 1e3:.0f} for a region; {split['same_answers']:.0%} of the answers "
        f"were the same as in one process, and each took {1e3 * split['extra_seconds']:+.1f} ms (median of "
        "differences). So its row has the whole model's answers and its own bytes."
    )
    costs = replace(cost_table(report, _COSTS_AT), note=note)
    return text, [accuracy_table(report), costs, difference_table(report)], plots(report)


def by_delay(report: Report) -> tuple[Rows, list[str], list[float]]:
    """The rows by method and delay; the methods, and the delays."""
    rows = {(row["method"], row["delay"]): row for row in report["rows"]}
    methods, delays = (list(dict.fromkeys(key[place] for key in rows)) for place in (0, 1))
    return rows, methods, delays


def accuracy_table(report: Report, *, intervals: bool = True) -> Table:
    """Accuracy of every method over the delay."""
    rows, methods, delays = by_delay(report)

    def cell(row: dict[str, Any]) -> str:
        found = Estimate(row["accuracy"], row["low"], row["high"])
        return percent(found).replace(" %", "") if intervals else share(found.value).removesuffix(" %")

    titles = ("right, per cent; delay of the cloud", *(f"{delay:g} s" for delay in delays))
    table = [(NAMES[name], *(cell(rows[name, delay]) for delay in delays)) for name in methods]
    return Table(titles, tuple(table))


def cost_table(report: Report, delay: float) -> Table:
    """What each method costs, and how old what it says is, at one delay."""
    rows, methods, _ = by_delay(report)
    titles = (
        "",
        "key frames",
        "kB a frame, camera",
        "cloud",
        "held",
        "age, s",
        "of the right, s",
        "mended, s",
    )
    table = []
    for name in methods:
        row = rows[name, delay]
        after = row["correct_after"]
        table.append(
            (
                NAMES[name],
                share(row["calls_per_frame"], 0),
                f"{row['bytes_up_edge'] / 1e3:.1f}",
                f"{row['bytes_up_site'] / 1e3:.1f}",
                share(row["deadline_misses"], 0),
                f"{row['age']:.2f}",
                f"{row['age_right']:.2f}",
                NONE if after is None else f"{after:.2f}",
            )
        )
    return Table(titles, tuple(table))


def difference_table(report: Report) -> Table:
    """Differences of accuracy on the same frames, but for those over the small model."""
    found = {(row["method"], row["over"], row["delay"]): row for row in report["differences"]}
    pairs = dict.fromkeys((one, other) for one, other, _ in found if other != "small")
    delays = list(dict.fromkeys(delay for *_, delay in found))
    table = []
    for one, other in pairs:
        cells = (found[one, other, delay] for delay in delays)
        told = (points(Estimate(each["difference"], each["low"], each["high"])) for each in cells)
        table.append((f"{NAMES[one]} less {NAMES[other]}", *told))
    return Table(("points; delay of the cloud", *(f"{delay:g} s" for delay in delays)), tuple(table))


def plots(report: Report) -> list[Plot]:
    """Accuracy, and key frames, over the delay."""
    rows, methods, delays = by_delay(report)
    x = np.array(delays)

    def series(name: str, key: str, *, quiet: bool = False, band: bool = False) -> Series:
        each = [rows[name, delay] for delay in delays]
        y, low, high = (np.array([row[of] for row in each]) for of in (key, "low", "high"))
        return Series(NAMES[name], x, y, Band(x, low, high) if band else None, quiet)

    lines = [series(name, "accuracy", quiet=True) for name in _COMPARED if name in methods]
    lines += [series(name, "accuracy", band=name in _BANDED) for name in _PLOTTED if name in methods]
    right = draw_lines(lines, "delay of the cloud, s", "frames right")
    network = _NETWORKS[report["network"]]
    frames = f"{report['streams']} streams, {report['frames']} frames, {network}"
    drawn = [
        Plot(
            f"stream-accuracy-{report['network']}",
            "Accuracy over the delay of the cloud",
            f"{frames}; bands are 95 % intervals by stream. A split large model is as right as a whole one.",
            _logarithmic(right, delays),
        )
    ]
    if rules := [name for name in ("belief", "belief_doubt") if name in methods]:
        calls = draw_lines(
            [series(name, "calls_per_frame") for name in rules], "delay of the cloud, s", "key frames"
        )
        drawn.append(
            Plot(
                f"stream-calls-{report['network']}",
                "Key frames over the delay of the cloud",
                f"Whenever there is room, and by doubt; share of all frames; {frames}.",
                _logarithmic(calls, delays),
            )
        )
    return drawn


def _logarithmic(figure: Figure, delays: Sequence[float]) -> Figure:
    (axes,) = figure.axes
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(delays))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    return figure
