"""What a run shows of the method's claims, said plainly, whether they hold or not; and what to make of it.

Song & Kim, arXiv 2512.16349: nearly full accuracy at less communication, min-entropy as the best measure, the
first five tokens as good as all, and JPEG on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

import numpy as np

from secondlook.benchmarks.analysis.curves import NEAR, Envelope
from secondlook.benchmarks.analysis.replay import Replay, advantage
from secondlook.benchmarks.analysis.statistics import Bootstrap, Estimate, Separation
from secondlook.benchmarks.report.document import Section, Table, number, points, share
from secondlook.benchmarks.report.study import MEASURES, Qualities, Study
from secondlook.benchmarks.run_log import leaves

_LEAST_COMMUNICATION: Final = 0.5
_RANKING: Final = 0.01
_ARBITRATION: Final = 0.003
_RATES: Final = np.linspace(0.0, 1.0, 201)


@dataclass(frozen=True)
class Finding:
    """One claim. `holds` is None where the logs cannot tell; `detail` has the figures."""

    claim: str
    holds: bool | None
    detail: str


def nearly_full(least: Estimate, most: float, full: float, name: str) -> Finding:
    """Full retransmission's accuracy within a point at an extra communication of at most a half.

    Args:
        least, most: extra communication that is `NEAR` full accuracy, NaN if none is, and that of always.
        full: accuracy of the second answers, as they are, to all questions.
        name: what communication counts: pixels or bytes.
    """
    told = (
        "never reached"
        if np.isnan(least.value)
        else f"reached at {number(least, 2)}, {share(1 - least.value / most, 0)} less than always"
    )
    return Finding(
        "The accuracy of always looking twice, within 1 point, at an extra communication "
        f"({name}) of at most {_LEAST_COMMUNICATION:g}",
        bool(least.value <= _LEAST_COMMUNICATION),
        f"{told} (always looking twice: {share(full)} at {most:.2f})",
    )


def ranking(found: Mapping[str, Separation]) -> Finding:
    """Min-entropy tells wrong answers at least as well as the other measures."""
    areas = {name: each.auroc.value for name, each in found.items()}
    detail = ", ".join(f"{name} {number(each.auroc)}" for name, each in found.items())
    claim = f"Min-entropy's area under ROC is at least that of the other measures less {_RANKING:g}"
    if any(np.isnan(area) for area in areas.values()):
        return Finding(claim, None, "no area without both right and wrong answers")
    holds = areas["min-entropy"] >= max(areas.values()) - _RANKING
    told = "" if holds else ": the paper's ranking of measures did not hold here"
    return Finding(claim, bool(holds), detail + told)


def first_tokens(all_tokens: Replay, first_five: Replay, boot: Bootstrap) -> Finding:
    """The first five tokens decide about as well as all, at any retransmission rate."""
    lines = [replay.trade_off.line(replay.rate) for replay in (first_five, all_tokens)]
    rates = _RATES * lines[1].cost[-1]
    apart = lines[0].at(rates) - lines[1].at(rates)
    worst = int(apart.argmin())
    rate = float(rates[worst])
    worst_apart = advantage(first_five, all_tokens, attrgetter("rate"), rate, boot)
    longer = float((all_tokens.columns.first.lengths > 5).mean())
    return Finding(
        "Deciding on the first 5 tokens is within 1 point of deciding on all, at equal retransmission rates",
        bool(apart[worst] >= -NEAR),
        f"at worst {points(worst_apart, 1)} points, at a rate of {share(rate, 0)}; "
        f"{share(longer, 0)} of the first answers are longer",
    )


def arbitration(with_it: Replay, without: Replay, boot: Bootstrap) -> Finding:
    """Keeping the surer answer costs no accuracy at any threshold."""
    lines = [replay.trade_off.line(replay.rate) for replay in (with_it, without)]
    apart = lines[0].accuracy - lines[1].accuracy
    worst = int(apart.argmin())
    rate = float(lines[0].cost[worst])
    worst_apart = advantage(with_it, without, attrgetter("rate"), rate, boot)
    return Finding(
        f"Arbitration is never below no arbitration by more than {100 * _ARBITRATION:g} points",
        bool(apart[worst] >= -_ARBITRATION - 1e-12),
        f"at worst {points(worst_apart, 2)} points, at a retransmission rate of {share(rate, 0)}; "
        f"at best {100 * apart.max():+.2f}",
    )


def jpeg(
    best: Envelope,
    qualities: Sequence[tuple[int, int]],
    single: tuple[float, float] | None,
    questions: int | None = None,
) -> Finding:
    """Some qualities and threshold beat one global image at quality 95, in bytes and in accuracy.

    Args:
        best: over bytes a question.
        qualities: of the envelope's lines.
        single: bytes a question and accuracy of the first looks at quality 95; None without such a log.
        questions: how many all logs have in common, where that is not all.
    """
    claim = "An operating point beats one global image at quality 95 in both bytes and accuracy"
    if single is None:
        return Finding(claim, None, "no log has a global image of quality 95")
    common = "" if questions is None else f" (on the {questions} questions that all logs have)"
    alone = f"one global image at quality 95: {single[0] / 1e3:.1f} kB, {share(single[1])}{common}"
    better = np.flatnonzero((best.cost < single[0]) & (best.accuracy > single[1]))
    if not len(better):
        return Finding(claim, False, f"none does; {alone}")
    point = better[-1]
    pair = qualities[best.line[point]]
    found = f"{best.cost[point] / 1e3:.1f} kB, {share(float(best.accuracy[point]))}"
    return Finding(claim, True, f"{found} with qualities {pair[0]} and {pair[1]}; {alone}")


_HOLDS = {True: "holds", False: "does not hold", None: "cannot be told"}


def claims(study: Study, found: Qualities) -> Section:
    """Each claim, and whether it holds for these data."""
    common = len(found.runs[0].columns) if study.family.left_out else None
    findings = [
        *(
            nearly_full(study.reaching(cost), study.always(cost).value, study.full.value, what)
            for what, cost in ((what, study.extra(what)) for what in ("pixels", "bytes"))
        ),
        ranking({name: study.separation(measure) for name, measure in MEASURES.items()}),
        first_tokens(study.plain, study.replay("min_entropy", "first_k", 5), study.boot),
        arbitration(study.plain, study.replay(arbitration=False), study.boot),
        jpeg(found.best, found.pairs, found.single, common),
    ]
    rows = [(each.claim, _HOLDS[each.holds], each.detail) for each in findings]
    return Section("What holds here", (), (Table(("claim", "here", "figures"), tuple(rows)),))


def settings(study: Study) -> Section:
    run = study.run
    rows = [(name, value) for name, value in leaves({**run.header.settings, "made": run.header.made})]
    logs = tuple(
        (each.path.name, "{} and {}".format(*each.qualities), str(len(each.columns)), str(len(each.skipped)))
        for each in study.family.runs
    )
    told = "; ".join(f"{one.file}: {one.why}" for one in run.skipped)
    columns, note = ("log", "qualities", "questions", "pictures left out"), told and f"Left out: {told}."
    tables = (Table(columns, logs, note), Table(("setting", "value"), tuple(rows)))
    text = "Settings are those of the first log; what it was made by and on is below “made”."
    return Section("Settings and environment", (text,), tables)
