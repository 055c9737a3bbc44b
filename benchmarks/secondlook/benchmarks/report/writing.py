"""Write a report: one HTML page that needs nothing else (no network, scripts or fonts of its own), a summary,
and the plots."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from secondlook.benchmarks.analysis.runs import read_families
from secondlook.benchmarks.commands import ReportError
from secondlook.benchmarks.report.content import describe
from secondlook.benchmarks.report.document import Document, Example, Plot, Table, escaped, part_lines, parted
from secondlook.benchmarks.report.plots import palettes, png, standalone

_PLOTS: Final = "plots"


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
    files = {"index.html": as_page(documents).encode(), "summary.md": as_markdown(documents).encode()}
    for plot in (plot for document in documents for plot in document.plots):
        files[f"{_PLOTS}/{plot.name}.svg"] = standalone(plot.svg).encode()
        files[f"{_PLOTS}/{plot.name}.png"] = png(plot.figure)
    try:
        for name, content in files.items():
            (output / name).write_bytes(content)
    except OSError as error:
        raise ReportError(f"cannot write {error.filename}: {error.strerror}") from error
    return [output / name for name in files]


def as_page(documents: Sequence[Document]) -> str:
    """Whole documents on one page."""
    environment = Environment(
        loader=PackageLoader("secondlook.benchmarks.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    kinds = {"a_plot": Plot, "a_table": Table, "an_example": Example}
    for name, kind in kinds.items():
        environment.tests[name] = lambda part, kind=kind: isinstance(part, kind)
    environment.filters |= {"figure": parted, "data_uri": _data_uri}
    light, dark = palettes()
    return environment.get_template("page.html").render(documents=documents, light=light, dark=dark)


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def as_markdown(documents: Sequence[Document]) -> str:
    """Whole documents, one after the other."""
    lines: list[str] = []
    for document in documents:
        lines += [f"# {escaped(document.title)}", document.lead]
        for section in document.sections:
            lines += [f"## {section.title}", *map(escaped, section.text), *part_lines(section.parts, _PLOTS)]
    return "\n\n".join(lines) + "\n"


def _numbered(document: Document, number: int) -> Document:
    """With names of plots that are its own among several documents."""

    def named(part: Table | Plot | Example) -> Table | Plot | Example:
        return replace(part, name=f"{number}-{part.name}") if isinstance(part, Plot) else part

    sections = (replace(one, parts=tuple(map(named, one.parts))) for one in document.sections)
    return replace(document, sections=tuple(sections))
