"""The sections on accuracy against what it costs: pixels, bytes and computation."""

from __future__ import annotations

from typing import Final

import numpy as np

from secondlook.benchmarks.analysis.bootstrap import LEVEL, Estimate
from secondlook.benchmarks.analysis.curves import Cost, Line, oracle
from secondlook.benchmarks.documents import share
from secondlook.benchmarks.latency.work import FlowName
from secondlook.benchmarks.report.document import Plot, Section, Table
from secondlook.benchmarks.report.plots import Mark, Series, draw_lines
from secondlook.benchmarks.report.study import MEASURES, Study, bytes_sent
from secondlook.benchmarks.report.words import NONE, kilobytes, number, percent

__all__ = ["communication", "computation", "overview"]

_RATES: Final = (0.1, 0.25, 0.5, 0.75)
_FLOWS: Final[dict[FlowName, str]] = {"ours": "secondlook", "reference": "the published flow"}


def overview(study: Study) -> Section:
    """One look, two looks at the threshold, and always two looks."""
    columns, boot, replay = study.columns, study.boot, study.plain
    sent, pixels, extra = bytes_sent(columns), study.extra("pixels"), study.extra("bytes")
    always = (percent(study.full), "100 %", *_spent(study, extra, pixels, sent))
    arbitrated = (percent(boot.mean(replay.kept)), *always[1:])
    rows = [("one look", percent(boot.mean(replay.first)), "0 %", "0", "0", kilobytes(boot.mean(sent.base)))]
    if study.threshold is not None:
        looked = study.looked
        found = [study.at_threshold(cost) for cost in (extra, pixels, sent)]
        (byte, accuracy), (pixel, _), (size, _) = (each for each in found if each is not None)
        rate = percent(boot.mean(looked.astype(np.float64)))
        name = f"two looks at a threshold of {study.threshold:.4g} nats"
        rows.append((name, percent(accuracy), rate, number(byte, 2), number(pixel, 2), kilobytes(size)))
    rows += [("always two looks", *always), ("the same with arbitration", *arbitrated)]
    note = (
        f"The originals have {kilobytes(boot.mean(columns.original_bytes))} each. Intervals are "
        f"of {share(LEVEL, 0)}, by {boot.resamples} bootstrap resamples of the pictures."
    )
    titles = ("", "accuracy", "second looks", "extra bytes", "extra pixels", "sent a question")
    return Section("What two looks give", (), (Table(titles, tuple(rows), note),))


def _spent(study: Study, *costs: Cost) -> tuple[str, str, str]:
    extra, pixels, sent = (study.boot.ratio(cost.base + cost.extra, cost.unit) for cost in costs)
    return number(extra, 2), number(pixels, 2), kilobytes(sent)


def communication(study: Study) -> Section:
    """Accuracy against extra communication, as pixels and as bytes, for every measure."""
    plots = []
    for what in ("pixels", "bytes"):
        cost = study.extra(what)
        series = [
            Series(name, line.cost, line.accuracy, band)
            for name, measure in MEASURES.items()
            for line, band in [study.line(study.replay(measure), cost)]
        ]
        plots.append(
            Plot(
                f"communication-{what}",
                f"Accuracy against extra communication, {what}",
                f"Extra communication: {what} of local images over those of global images. Each curve is "
                "every threshold of one measure. Random: as many second looks at random questions, in "
                "expectation. Oracle: the best choice there is.",
                draw_lines(
                    [*series, *_compared(study, cost)],
                    f"extra communication ({what})",
                    marks=_marks(study, cost),
                ),
            )
        )
    text = (
        "Song and Kim's trade-off: the more questions get a second look, the more is sent and the more "
        "answers are right. The curves keep the surer of both answers."
    )
    return Section("Accuracy against communication", (text,), (*plots, _at_rates(study)))


def computation(study: Study) -> Section:
    """Accuracy against relative computation."""
    title = "Accuracy against computation"
    costs = {flow: study.computation(flow) for flow in _FLOWS}
    series, rows = [], []
    for flow, name in _FLOWS.items():
        cost = costs[flow]
        if cost is None:
            return Section(title, ("The log does not state the model's sizes: it is of an earlier version.",))
        line, band = study.line(study.plain, cost)
        series.append(Series(name, line.cost, line.accuracy, band))
        at = study.at_threshold(cost)
        ends = (study.boot.ratio(cost.base, cost.unit), study.always(cost), study.reaching(cost))
        alone, always, near = (number(each, 2) for each in ends)
        rows.append((name, alone, NONE if at is None else number(at[0], 2), always, near))
    ours = costs["ours"]
    assert ours is not None, "the section ends before if a log does not tell"
    plot = Plot(
        "computation",
        "Accuracy against relative computation",
        "FLOPs of all answers over those of answering every question once from the global image. The "
        "published flow computes the two attention maps in complete passes of their own, and begins the "
        "second answer anew; secondlook keeps what it has computed.",
        draw_lines([*series, *_compared(study, ours)], "relative computation", marks=_marks(study, ours)),
    )
    titles = ("", "one look", "at the threshold", "always two looks", "for 1 point below always")
    note = "Counted from the log's token counts and the model's sizes, as by secondlook bench flops."
    return Section(title, (), (plot, Table(titles, tuple(rows), note)))


def _compared(study: Study, cost: Cost) -> list[Series]:
    """Random second looks, and the oracle's."""
    replay = study.plain
    line = replay.trade_off.line(cost)
    ends = line.cost[[0, -1]]
    best = oracle(replay.first, replay.gain, cost)
    reach = Line(best.thresholds, np.append(best.cost, ends[1]), np.append(best.accuracy, best.accuracy[-1]))
    return [
        Series("random", ends, line.accuracy[[0, -1]], quiet=True),
        Series("oracle", reach.cost, reach.accuracy, quiet=True),
    ]


def _marks(study: Study, cost: Cost) -> list[Mark]:
    found = study.at_threshold(cost)
    return [] if found is None else [Mark("threshold", found[0].value, found[1].value)]


def _at_rates(study: Study) -> Table:
    """Accuracies at some retransmission rates."""
    names = {name: study.replay(measure) for name, measure in MEASURES.items()}
    rows = []
    for name, replay in names.items():
        line, band = study.line(replay, replay.rate)
        at = line.at(np.array(_RATES))
        low, high = (np.interp(_RATES, band.cost, edge) for edge in (band.low, band.high))
        told = [percent(Estimate(*map(float, each))) for each in zip(at, low, high, strict=True)]
        cells = (text if rate <= line.cost[-1] else NONE for rate, text in zip(_RATES, told, strict=True))
        rows.append((name, *cells))
    replay, most = study.plain, study.plain.possible.mean()
    random = (study.boot.mean(replay.first + rate / max(most, 1e-300) * replay.gain) for rate in _RATES)
    expected = zip(_RATES, random, strict=True)
    rows.append(("random", *(percent(each) if rate <= most else NONE for rate, each in expected)))
    titles = ("accuracy at a retransmission rate of", *(share(rate, 0) for rate in _RATES))
    return Table(titles, tuple(rows))
