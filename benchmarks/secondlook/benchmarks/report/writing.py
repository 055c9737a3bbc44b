"""Write a report: the page, the Markdown summary and the plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from secondlook.benchmarks.analysis.runs import read_families
from secondlook.benchmarks.report.content import describe
from secondlook.benchmarks.report.document import Document, Plot
from secondlook.benchmarks.report.markdown import as_markdown
from secondlook.benchmarks.report.page import as_page
from secondlook.benchmarks.report.style import png, standalone
from secondlook.benchmarks.reports import ReportError

__all__ = ["write_documents", "write_report_of"]

_PLOTS = "plots"


def write_report_of(
    logs: Sequence[Path],
    output: Path,
    threshold: float | None = None,
    kinds: Sequence[str] = (),
    examples: int = 6,
    images: Path | None = None,
    resamples: int | None = None,
) -> list[Path]:
    """Read logs and write their report: `index.html`, `summary.md` and `plots/`; returns what was written.

    For the other arguments see `read_families` and `describe`.

    Raises:
        LogError: a log cannot be used; see `read_families`.
        ReportError: the folder cannot be written, or an example's picture is not there.
    """
    try:
        (output / _PLOTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(f"cannot write in {output}: {error.strerror}; choose another folder") from error
    families = read_families(logs, kinds)
    documents = [describe(family, threshold, examples, images, resamples) for family in families]
    if len(documents) > 1:
        documents = [_numbered(document, number) for number, document in enumerate(documents, 1)]
    return write_documents(documents, output)


def write_documents(documents: Sequence[Document], output: Path) -> list[Path]:
    """Write them into a folder that is there.

    Raises:
        ReportError: a file cannot be written.
    """
    files = {
        "index.html": as_page(documents).encode(),
        "summary.md": as_markdown(documents, _PLOTS).encode(),
    }
    for document in documents:
        for section in document.sections:
            for part in section.parts:
                if isinstance(part, Plot):
                    files[f"{_PLOTS}/{part.name}.svg"] = standalone(part.svg).encode()
                    files[f"{_PLOTS}/{part.name}.png"] = png(part.figure)
    try:
        for name, content in files.items():
            (output / name).write_bytes(content)
    except OSError as error:
        raise ReportError(f"cannot write {error.filename}: {error.strerror}") from error
    return [output / name for name in files]


def _numbered(document: Document, number: int) -> Document:
    """With names of plots that are its own among several documents."""
    return replace(
        document,
        sections=tuple(
            replace(
                section,
                parts=tuple(
                    replace(part, name=f"{number}-{part.name}") if isinstance(part, Plot) else part
                    for part in section.parts
                ),
            )
            for section in document.sections
        ),
    )
