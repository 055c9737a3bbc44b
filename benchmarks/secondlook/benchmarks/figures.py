"""The documents' tables and plots, made again from the committed results and logs. For `make figures`.

    python -m secondlook.benchmarks.figures

Runs in the repository's root. A part of a document is between the lines `<!-- NAME -->` and
`<!-- end of NAME -->`; which files it is made of is in `PARTS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from secondlook.benchmarks.documents import fill
from secondlook.benchmarks.tables.budget import budget_markdown
from secondlook.benchmarks.tables.edge import edge_markdown
from secondlook.benchmarks.tables.operators import operators_markdown
from secondlook.benchmarks.tables.signs import results_markdown
from secondlook.benchmarks.tables.speed import speed_markdown
from secondlook.benchmarks.tables.vision import vision_markdown

__all__ = ["EVIDENCE", "PARTS", "PLOTS", "Part", "committed_logs", "evidence", "main", "write_figures"]

RESULTS: Final = Path("benchmarks/results")
PLOTS: Final = Path("docs/plots")
_README: Final = Path("README.md")
_CARD: Final = Path("engine/secondlook/engine/checkpoint/README.md")
EVIDENCE: Final = "evidence"
"""The part that is made of the logs; of the first of them, but for the comparison of qualities."""
_LOGS: Final = ("signs-5151-90-90.jsonl.gz", "signs-5151-*.jsonl.gz")
_SHOWN_PLOTS: Final = ("communication-bytes", "histograms", "envelope", "groups-boxes")


@dataclass(frozen=True)
class Part:
    """A marked part of documents.

    Attributes:
        results: patterns of the files it is made of, in this order; those of one pattern by name.
        written: its text, whole lines, of what is in the files.
    """

    documents: tuple[Path, ...]
    results: tuple[str, ...]
    written: Callable[[Sequence[dict[str, Any]]], str]

    def text(self, root: Path) -> str:
        """What the files say.

        Raises:
            FileNotFoundError: a pattern has no file.
        """
        reports = [json.loads(path.read_text(encoding="utf-8")) for path in _found(root, self.results)]
        return self.written(reports)


PARTS: Final[Mapping[str, Part]] = {
    "results": Part((_README, _CARD), ("signs-test-4242.json",), lambda reports: results_markdown(*reports)),
    "budget": Part((_README,), ("budget-signs-5151.json",), lambda reports: budget_markdown(*reports)),
    "edge": Part((_README,), ("edge-*.json",), edge_markdown),
    "speed": Part(
        (_README,), ("latency-*.json", "flops-*.json", "load-*.json", "prefill-*.json"), speed_markdown
    ),
    "vision": Part((_README,), ("vision-*.json",), vision_markdown),
    "operators": Part((_README,), ("kernels-*.json",), operators_markdown),
}


def evidence(logs: Sequence[Path], plots: Path | None = None) -> str:
    """What the logs' report says first, and some of its plots.

    Args:
        plots: the folder to write the plots to; None: they are there.

    Raises:
        LogError: see `secondlook.benchmarks.analysis.runs.read_families`.
    """
    from secondlook.benchmarks.analysis.runs import read_families
    from secondlook.benchmarks.report.content import describe
    from secondlook.benchmarks.report.document import Plot, Table
    from secondlook.benchmarks.report.markdown import part_lines
    from secondlook.benchmarks.report.style import standalone

    (family,) = read_families(logs)
    document = describe(family, examples=0)
    tables = [part for section in document.sections[:2] for part in section.parts if isinstance(part, Table)]
    drawn = {
        part.name: part
        for section in document.sections
        for part in section.parts
        if isinstance(part, Plot) and part.name in _SHOWN_PLOTS
    }
    chosen = [drawn[name] for name in _SHOWN_PLOTS]
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for plot in chosen:
            (plots / f"{plot.name}.svg").write_text(standalone(plot.svg), encoding="utf-8")
    lines = part_lines([*tables, *chosen], PLOTS.as_posix())
    return "\n\n".join([document.lead, *lines]) + "\n"


def write_figures(root: Path) -> None:
    """Write every part of every document below a checkout's root, and the plots."""
    for name, part in PARTS.items():
        text = part.text(root)
        for document in part.documents:
            fill(root / document, name, text)
    fill(root / _README, EVIDENCE, evidence(committed_logs(root), root / PLOTS))


def committed_logs(root: Path) -> list[Path]:
    """The committed logs of a checkout."""
    return list(dict.fromkeys(_found(root, _LOGS)))


def _found(root: Path, patterns: Sequence[str]) -> list[Path]:
    found = []
    for pattern in patterns:
        paths = sorted((root / RESULTS).glob(pattern))
        if not paths:
            raise FileNotFoundError(f"there is no {RESULTS / pattern} in {root}")
        found += paths
    return found


def main() -> None:
    """Write them in the current folder."""
    write_figures(Path())


if __name__ == "__main__":
    main()
