"""The sections that say what to make of it: claims, the paper's figures, settings and environment."""

from __future__ import annotations

import numpy as np

from secondlook.benchmarks.analysis.bootstrap import Estimate
from secondlook.benchmarks.analysis.findings import (
    Finding,
    arbitration,
    first_tokens,
    jpeg,
    nearly_full,
    ranking,
)
from secondlook.benchmarks.documents import share
from secondlook.benchmarks.report.document import Section, Table
from secondlook.benchmarks.report.qualities import Qualities
from secondlook.benchmarks.report.study import MEASURES, Study
from secondlook.benchmarks.report.words import NONE, number, percent
from secondlook.benchmarks.run_log import leaves
from secondlook.edge.wire import Aggregation

__all__ = ["beside_the_paper", "claims", "settings"]

_OURS = "(here: a quarter of the bytes of one global image at the highest quality logged)"
_REDRAWN = (
    ("Figs. 4, 5, 6 and 9", "accuracy against communication, accuracy against computation, doubt"),
    ("Fig. 8", "how many tokens to decide on"),
    ("Figs. 11 and 12", "JPEG qualities"),
    ("Tables II and III", "doubt of right and of wrong answers, how many tokens to decide on"),
)
_HOLDS = {True: "holds", False: "does not hold", None: "cannot be told"}


def claims(study: Study, found: Qualities) -> Section:
    """Each claim, and whether it holds for these data."""
    rows = [(each.claim, _HOLDS[each.holds], each.detail) for each in _findings(study, found)]
    return Section("What holds here", (), (Table(("claim", "here", "figures"), tuple(rows)),))


def _findings(study: Study, found: Qualities) -> list[Finding]:
    costs = {what: study.extra(what) for what in ("pixels", "bytes")}
    return [
        *(
            nearly_full(study.reaching(cost), study.always(cost).value, study.full.value, what)
            for what, cost in costs.items()
        ),
        ranking({name: study.separation(measure) for name, measure in MEASURES.items()}),
        first_tokens(study.plain, study.replay("min_entropy", "first_k", 5), study.boot),
        arbitration(study.plain, study.replay(arbitration=False), study.boot),
        jpeg(
            found.best,
            found.pairs,
            found.single,
            len(found.runs[0].columns) if study.family.left_out else None,
        ),
    ]


def beside_the_paper(study: Study, found: Qualities) -> Section:
    """The paper's own figures, where they are known, and the same for these data."""
    cost = study.extra("pixels")
    near, most = study.reaching(cost), study.always(cost)
    saved = Estimate(*(1 - each / most.value for each in (near.value, near.high, near.low)))
    ways: dict[str, Aggregation] = {"all": "all", "five": "first_k", "first": "first"}
    areas = {name: study.separation("min_entropy", way).auroc for name, way in ways.items()}
    order = ", ".join(f"{name} {number(area)}" for name, area in areas.items() if not np.isnan(area.value))
    rows = (
        ("extra communication (pixels) of always looking twice", "1", number(most, 2)),
        (
            "less extra communication than that, at nearly its accuracy (here: within 1 point)",
            "about 40 %",
            percent(saved, 0),
        ),
        ("extra communication that reaches LLaVA-1.5-HD's accuracy, whose own is 0.78", "0.28", NONE),
        (
            f"with JPEG, accuracy at a relative communication of 0.25 {_OURS}",
            "56.5 %",
            _at_a_quarter(found),
        ),
        (
            "deciding on all tokens, on five, on the first (here: area under ROC)",
            "all, five about as good, first worse",
            order or NONE,
        ),
    )
    text = (
        "Song and Kim, arXiv 2512.16349, with LLaVA-1.5 on TextVQA with OCR tokens: other questions and "
        "another model than here, unless the settings below say so."
    )
    tables = (Table(("", "the paper", "here"), rows), Table(("redrawn", "above, in"), _REDRAWN))
    return Section("Beside the paper", (text,), tables)


def _at_a_quarter(found: Qualities) -> str:
    best = max(found.runs, key=lambda run: run.qualities[0])
    most = best.columns.first.bytes.mean() / 4
    affordable = found.best.accuracy[found.best.cost <= most]
    return share(float(affordable[-1])) if len(affordable) else f"{NONE} (the least is more)"


def settings(study: Study) -> Section:
    """What was run, and on what."""
    run = study.run
    rows = [(name, value) for name, value in leaves({**run.header.settings, "made": run.header.made})]
    logs = tuple(
        (each.path.name, f"{each.qualities[0]} and {each.qualities[1]}", str(len(each.columns)))
        for each in study.family.runs
    )
    tables = (Table(("log", "qualities", "questions"), logs), Table(("setting", "value"), tuple(rows)))
    text = "Settings are those of the first log; what it was made by and on is below “made”."
    return Section("Settings and environment", (text,), tables)
