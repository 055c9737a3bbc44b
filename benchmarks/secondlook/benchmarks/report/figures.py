"""The documents' tables and plots, made again from the committed results and logs. For `make figures`.

    python -m secondlook.benchmarks.report.figures

Runs in the repository's root. A part of a document is between the lines `<!-- NAME -->` and
`<!-- end of NAME -->`. `PARTS` says where each part is, which files it is made of, and what writes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from secondlook.benchmarks.report import tables
from secondlook.edge.files import write_files

RESULTS: Final = Path("benchmarks/results")
PLOTS: Final = Path("docs/plots")
_SHOWN_PLOTS: Final = ("communication-bytes", "histograms", "envelope", "groups-boxes")


@dataclass(frozen=True)
class Part:
    """A marked part of a document.

    Attributes:
        results: patterns of the files it is made of, in this order; those of one pattern by name.
        written: its text, whole lines, of the files and of the document they are for.
    """

    name: str
    document: Path
    results: tuple[str, ...]
    written: Callable[[Sequence[Path], Path], str]

    def files(self, root: Path) -> list[Path]:
        found = []
        for pattern in self.results:
            paths = sorted((root / RESULTS).glob(pattern))
            if not paths:
                raise FileNotFoundError(f"there is no {RESULTS / pattern} in {root}")
            found += paths
        return list(dict.fromkeys(found))


def _one(table: Callable[..., str]) -> Callable[[Sequence[Path], Path], str]:
    """A table of all files together."""
    return lambda paths, _document: table(*map(_read, paths))


def _each(paths: Sequence[Path], _document: Path) -> str:
    """A table of each file, of the kind that its name begins with."""
    return "\n".join(tables.measured(path.name.split("-")[0], _read(path)) for path in paths)


def headline(paths: Sequence[Path], _document: Path) -> str:
    """The README's table; of latencies in several precisions the least favourable."""
    signs, load, *latencies = map(_read, paths)
    return tables.headline(signs, min(latencies, key=lambda one: one["speedup_reference"]), load)


def evidence(logs: Sequence[Path], document: Path, plots: Path | None = None) -> str:
    """What the logs' report says first, and some of its plots; of the first log, but for the comparison of
    qualities.

    Args:
        document: where it will stand, and link the plots from.
        plots: the folder to write the plots to; None: they are there.
    """
    from secondlook.benchmarks.analysis.runs import read_family
    from secondlook.benchmarks.report.content import describe
    from secondlook.benchmarks.report.document import Table, escaped, part_lines
    from secondlook.benchmarks.report.plots import standalone

    report = describe(read_family(logs), examples=0)
    firsts = [part for section in report.sections[:2] for part in section.parts if isinstance(part, Table)]
    drawn = {plot.name: plot for plot in report.plots}
    chosen = [drawn[name] for name in _SHOWN_PLOTS]
    if plots is not None:
        write_files({plots / f"{plot.name}.svg": standalone(plot.svg) for plot in chosen})
    links = Path(os.path.relpath(PLOTS, document.parent)).as_posix()
    return "\n\n".join([escaped(report.lead), *part_lines([*firsts, *chosen], links)]) + "\n"


def streams(results: Sequence[Path], document: Path, plots: Path | None = None) -> str:
    """Tables and plots of `bench stream`, a part for each network; see `evidence`."""
    from secondlook.benchmarks.report.document import part_lines
    from secondlook.benchmarks.report.plots import standalone
    from secondlook.benchmarks.report.streams import sections

    links, lines = Path(os.path.relpath(PLOTS, document.parent)).as_posix(), list[str]()
    for report in map(_read, results):
        text, parts, drawn = sections(report)
        if plots is not None:
            write_files({plots / f"{plot.name}.svg": standalone(plot.svg) for plot in drawn})
        lines += [text, *part_lines([*parts, *drawn], links)]
    return "\n\n".join(lines) + "\n"


def fewer_bits(results: Sequence[Path], document: Path, plots: Path | None = None) -> str:
    """Tables of `eval bits`, and how far the first log's thresholds go; see `evidence`."""
    from matplotlib.ticker import PercentFormatter

    from secondlook.benchmarks.report.document import Plot, part_lines
    from secondlook.benchmarks.report.plots import Series, draw_lines, standalone

    links, lines = Path(os.path.relpath(PLOTS, document.parent)).as_posix(), list[str]()
    for path, report in zip(results, map(_read, results), strict=True):
        rates = np.array(report["rates"])
        first, *others = (
            Series(row["precision"], rates, np.array(curve), quiet=not place)
            for place, (row, curve) in enumerate(zip(report["rows"], report["curves"], strict=True))
        )
        figure = draw_lines(
            [first, *others], f"second looks of {first.label}", "second looks, threshold kept"
        )
        figure.axes[0].xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        drawn = Plot(
            path.stem,
            f"Thresholds of {first.label} in other precisions",
            "A threshold keeps its share of second looks where a line is on the diagonal.",
            figure,
        )
        if plots is not None:
            write_files({plots / f"{drawn.name}.svg": standalone(drawn.svg)})
        lines += [tables.measured("bits", report), *part_lines([drawn], links)]
    return "\n\n".join(lines) + "\n"


def gates(results: Sequence[Path], document: Path, plots: Path | None = None) -> str:
    """Tables and the plot of `bench gate`; see `evidence`."""
    from secondlook.benchmarks.report.document import part_lines
    from secondlook.benchmarks.report.gating import parts
    from secondlook.benchmarks.report.plots import standalone

    (path,) = results
    *_, plot = parts(_read(path))
    if plots is not None:
        write_files({plots / f"{plot.name}.svg": standalone(plot.svg)})
    links = Path(os.path.relpath(PLOTS, document.parent)).as_posix()
    return "\n\n".join([_each(results, document).rstrip("\n"), *part_lines([plot], links)]) + "\n"


_SIGNS: Final = "signs-test-4242.json"
_HEADLINE: Final = (_SIGNS, "load-demo-float32-cpu.json", "latency-small-4-*cpu.json")
_LOGS: Final = ("signs-5151-90-90.jsonl.gz", "signs-5151-*.jsonl.gz")
_STREAMS: Final = tuple(f"stream-{network}.json" for network in ("constant", "lognormal", "trace"))
_SPEED: Final = tuple(
    f"{kind}-*.json" for kind in ("latency", "flops", "load", "prefill", "account", "replay")
)

_CARD: Final = Path("engine/secondlook/engine/checkpoint/README.md")
_QWEN_CARD: Final = Path("engine/secondlook/engine/checkpoint_qwen/README.md")

PARTS: Final = (
    Part("headline", Path("README.md"), _HEADLINE, headline),
    Part("results", Path("docs/accuracy.md"), (_SIGNS,), _one(tables.results)),
    Part("results", _CARD, (_SIGNS,), _one(tables.results)),
    Part("results", _QWEN_CARD, ("signs-qwen-test-4242.json",), _one(tables.results)),
    Part("evidence", Path("docs/accuracy.md"), _LOGS, evidence),
    Part("bits", Path("docs/accuracy.md"), ("bits-*.json",), fewer_bits),
    Part("gate", Path("docs/calibration.md"), ("gate-*.json",), gates),
    Part("budget", Path("docs/calibration.md"), ("budget-signs-5151.json",), _each),
    Part("heads", Path("docs/calibration.md"), ("heads-*.json",), _each),
    Part("compare", Path("docs/calibration.md"), ("compare-*.json",), _each),
    Part("streams", Path("docs/streams.md"), _STREAMS, streams),
    Part("site", Path("docs/streams.md"), ("site-*.json",), _each),
    Part("speed", Path("docs/performance.md"), _SPEED, _each),
    Part("peers", Path("docs/performance.md"), ("peers-*.json",), _each),
    Part("operators", Path("docs/performance.md"), ("kernels-*.json",), _each),
    Part("vision", Path("docs/export.md"), ("vision-*.json",), _each),
    Part("browser", Path("docs/browser.md"), ("browser-*.json",), _each),
    Part("edge", Path("docs/edge.md"), ("edge-*.json",), _each),
    Part("lossless", Path("docs/gateway.md"), ("lossless-*.json",), _each),
    Part("replicas", Path("docs/deployment.md"), ("replicas-*.json",), _each),
    Part("clients", Path("docs/openai.md"), ("clients-*.json",), _each),
)


def write_figures(root: Path) -> None:
    """Write every part of every document below a checkout's root, and the plots."""
    for part in PARTS:
        written = part.written
        for drawing in (evidence, streams, fewer_bits, gates):
            written = partial(drawing, plots=root / PLOTS) if part.written is drawing else written
        path = root / part.document
        text = filled(path.read_text(encoding="utf-8"), part.name, written(part.files(root), part.document))
        write_files({path: text})


def filled(document: str, name: str, text: str) -> str:
    """The document with `text`, whole lines, between the markers of this name."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, found, rest = document.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the document lacks the lines {begin.strip()} and {end.strip()}")
    return before + begin + text + end + after


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    write_figures(Path())
