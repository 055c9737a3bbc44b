"""The sections on accuracy against what it costs: pixels, bytes and computation, and JPEG qualities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from secondlook.benchmarks.analysis.curves import Band, Cost, oracle
from secondlook.benchmarks.analysis.replay import Replay
from secondlook.benchmarks.analysis.statistics import LEVEL, Bootstrap, Estimate
from secondlook.benchmarks.report.document import (
    NONE,
    Plot,
    Section,
    Table,
    kilobytes,
    number,
    percent,
    share,
)
from secondlook.benchmarks.report.plots import Mark, Series, draw_lines
from secondlook.benchmarks.report.study import HIGH_QUALITY, MEASURES, Qualities, Study

_BASELINE: Final = "one look at high resolution"
_EACH: Final = "a pair of qualities"
_SHOWN: Final = 6
"""Rows of the envelope's table."""
_RATES: Final = (0.1, 0.25, 0.5, 0.75)


def overview(study: Study) -> Section:
    """One look, two looks at the threshold, and always two looks."""
    columns, boot, replay = study.columns, study.boot, study.plain
    sent, pixels, extra = replay.sent, study.extra("pixels"), study.extra("bytes")
    more, area, size = (study.always(cost) for cost in (extra, pixels, sent))
    always = (percent(study.full), "100 %", number(more, 2), number(area, 2), kilobytes(size))
    arbitrated = (percent(boot.mean(replay.kept)), *always[1:])
    rows = [("one look", percent(boot.mean(replay.first)), "0 %", "0", "0", kilobytes(boot.mean(sent.base)))]
    if study.threshold is not None:
        looked = study.looked
        found = [study.at_threshold(cost) for cost in (extra, pixels, sent)]
        (byte, accuracy), (pixel, _), (size, _) = (each for each in found if each is not None)
        rate = percent(boot.mean(looked.astype(np.float64)))
        name = f"two looks at a threshold of {study.threshold:.4g} nats"
        rows.append((name, percent(accuracy), rate, number(byte, 2), number(pixel, 2), kilobytes(size)))
    wide = [study.baseline(extra, "bytes"), study.baseline(pixels, "pixels"), study.baseline(sent, "bytes")]
    if all(wide):
        (byte, accuracy), (pixel, _), (size, _) = (each for each in wide if each is not None)
        one = (percent(accuracy), "0 %", number(byte, 2), number(pixel, 2), kilobytes(size))
        rows.append((_BASELINE, *one))
    rows += [("always two looks", *always), ("the same with arbitration", *arbitrated)]
    note = (
        f"The originals have {kilobytes(boot.mean(columns.original_bytes))} each. Intervals are "
        f"of {share(LEVEL, 0)}, by {boot.resamples} bootstrap resamples of the pictures."
    )
    titles = ("", "accuracy", "second looks", "extra bytes", "extra pixels", "sent a question")
    return Section("What two looks give", (), (Table(titles, tuple(rows), note),))


def communication(study: Study) -> Section:
    """Accuracy against extra communication, as pixels and as bytes, for every measure."""
    plots = []
    for what in ("pixels", "bytes"):
        cost = study.extra(what)
        series = series_of(study, {name: study.replay(measure) for name, measure in MEASURES.items()}, cost)
        curves = [*series, *_compared(study, cost)]
        caption = (
            f"Extra communication: {what} of local images over those of global images. Each curve is "
            "every threshold of one measure. Random: as many second looks at random questions, in "
            "expectation. Oracle: the best choice there is."
        )
        drawn = draw_lines(curves, f"extra communication ({what})", marks=_marks(study, cost, what))
        title = f"Accuracy against extra communication, {what}"
        plots.append(Plot(f"communication-{what}", title, caption, drawn))
    text = (
        "Song and Kim's trade-off: the more questions get a second look, the more is sent and the more "
        "answers are right. The curves keep the surer of both answers."
    )
    return Section("Accuracy against communication", (text,), (*plots, _at_rates(study)))


def computation(study: Study) -> Section:
    title, cost = "Accuracy against computation", study.computation
    if cost is None:
        return Section(title, ("The log does not tell what the looks of this model compute.",))
    plot = Plot(
        "computation",
        "Accuracy against relative computation",
        "FLOPs of all answers over those of answering every question once from the global image.",
        draw_lines(
            [*series_of(study, {"secondlook": study.plain}, cost), *_compared(study, cost)],
            "relative computation",
            marks=_marks(study, cost, "flops"),
        ),
    )
    at = study.at_threshold(cost)
    told = {
        "at the threshold": None if at is None else at[0],
        "always two looks": study.always(cost),
        "for 1 point below always": study.reaching(cost),
    }
    if (wide := study.baseline(cost, "flops")) is not None:
        told[_BASELINE] = wide[0]
    cells = (NONE if each is None else number(each, 2) for each in told.values())
    note = "Of FLOPs as they are counted when a question is asked; the published flow's are in bench flops."
    table = Table(("", *told), (("relative computation", *cells),), note)
    return Section(title, (), (plot, table))


def series_of(study: Study, replays: Mapping[str, Replay], cost: Cost) -> list[Series]:
    """The curve of each replay over a cost, with its intervals."""
    lines = {name: study.line(replay, cost) for name, replay in replays.items()}
    return [Series(name, line.cost, line.accuracy, band) for name, (line, band) in lines.items()]


def _compared(study: Study, cost: Cost) -> list[Series]:
    """Random second looks, and the oracle's."""
    replay = study.plain
    line = replay.trade_off.line(cost)
    ends = line.cost[[0, -1]]
    best = oracle(replay.first, replay.gain, cost)
    cost_to_end, level = np.append(best.cost, ends[1]), np.append(best.accuracy, best.accuracy[-1])
    return [
        Series("random", ends, line.accuracy[[0, -1]], quiet=True),
        Series("oracle", cost_to_end, level, quiet=True),
    ]


def _marks(study: Study, cost: Cost, what: str) -> list[Mark]:
    """The operating point, and the baseline."""
    found = {"threshold": study.at_threshold(cost), "high resolution": study.baseline(cost, what)}
    return [Mark(name, at[0].value, at[1].value) for name, at in found.items() if at is not None]


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


def qualities(study: Study, found: Qualities) -> Section:
    """Accuracy against bytes for each pair of qualities, and the envelope."""
    title = "JPEG qualities"
    if len(found.runs) == 1:
        text = f"One log only, with qualities {_pair(found.pairs[0])}. Logs of the same questions with other "
        return Section(title, (text + "qualities (--global-quality, --local-quality) are drawn together.",))
    boots = [Bootstrap(run.columns.picture, study.resamples) for run in found.runs]
    series = []
    for run, replay, line, boot in zip(found.runs, found.replays, found.lines, boots, strict=True):
        band = replay.trade_off.band(replay.sent, boot)
        inside = Band(band.cost / 1e3, band.low, band.high)
        series.append(Series(_pair(run.qualities), line.cost / 1e3, line.accuracy, inside))
    across, best, single = "kB a question", found.best, found.single
    marks = [Mark(f"one image, {HIGH_QUALITY}", single[0] / 1e3, single[1])] if single else []
    curves = Plot(
        "qualities",
        "Accuracy against bytes, by quality",
        "JPEG quality of the global and of the local image; every curve is every threshold.",
        draw_lines(series, across, marks=marks),
    )
    quiet = [Series(_EACH, each.x, each.y, quiet=True) for each in series]
    upper = Series("best envelope", best.cost / 1e3, best.accuracy, steps=True)
    reached = Plot(
        "envelope",
        "The best envelope",
        "No pair of qualities with any threshold is better in both bytes and accuracy.",
        draw_lines([upper, *quiet], across, marks=marks),
    )
    count = study.family.left_out
    left_out = f" {count} pictures that are not in all logs are left out." if count else ""
    text = (
        "Low quality saves bytes on every picture, a second look costs them on some. Points of the envelope "
        f"are chosen on the questions that they are drawn for, so they flatter a little.{left_out}"
    )
    return Section(title, (text,), (curves, reached, _envelope(found, boots)))


def _envelope(found: Qualities, boots: list[Bootstrap]) -> Table:
    """Some points of the envelope, evenly spread over its accuracies."""
    best = found.best
    wanted = np.linspace(best.accuracy[0], best.accuracy[-1], _SHOWN)
    points = np.unique(np.searchsorted(best.accuracy, wanted - 1e-12).clip(0, len(best.accuracy) - 1))
    rows = []
    for point in points:
        which, threshold = best.line[point], best.threshold[point]
        replay, boot = found.replays[which], boots[which]
        cost = replay.sent
        looked = replay.looked(threshold)
        rows.append(
            (
                _pair(found.pairs[which]),
                "none" if np.isinf(threshold) else f"{threshold:.4g}",
                percent(boot.mean(looked.astype(np.float64))),
                kilobytes(boot.mean(cost.base + looked * cost.extra)),
                percent(boot.mean(np.where(looked, replay.kept, replay.first))),
            )
        )
    titles = ("qualities", "threshold", "second looks", "sent a question", "accuracy")
    return Table(titles, tuple(rows), "Points of the envelope; without a threshold there is no second look.")


def _pair(pair: tuple[int, int]) -> str:
    return f"{pair[0]} and {pair[1]}"
