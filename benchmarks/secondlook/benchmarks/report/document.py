"""What a report consists of, however it is written: sections of text, tables, plots and examples; and how its
figures and its Markdown are written."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from secondlook.benchmarks.analysis.statistics import Estimate
from secondlook.benchmarks.report.plots import palettes, svg
from secondlook.edge.imaging import EncodedPicture

_FIGURE: Final = re.compile(r"([^()]+) \(([^()]+ to [^()]+)\)")

NONE = "-"
"""Where there is no figure."""


@dataclass(frozen=True)
class Table:
    """A table; the first column is words, the others are figures."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """A drawing. `name` is its file's, without an ending; `title` and `caption` say what it shows."""

    name: str
    title: str
    caption: str
    figure: Figure

    @cached_property
    def svg(self) -> str:
        """As an element of a page; drawn once."""
        return svg(self.figure, self.name)


@dataclass(frozen=True)
class Panel:
    """One picture of an example. `sent`: it is what the edge sent, pixel by pixel."""

    image: EncodedPicture
    caption: str
    sent: bool = True


@dataclass(frozen=True)
class Example:
    """One question's two looks.

    Attributes:
        title: what it is an example of.
        answers: (what, text) in order, such as ("first look", "“24”, uncertainty 0.71").
    """

    title: str
    question: str
    answers: tuple[tuple[str, str], ...]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Section:
    title: str
    text: tuple[str, ...]
    parts: tuple[Table | Plot | Example, ...] = ()


@dataclass(frozen=True)
class Document:
    title: str
    lead: str
    sections: tuple[Section, ...]

    @property
    def plots(self) -> list[Plot]:
        return [part for section in self.sections for part in section.parts if isinstance(part, Plot)]


def percent(estimate: Estimate, digits: int = 1) -> str:
    """A share and its interval: "57.6 % (55.4 to 59.8)"."""
    return _written(estimate, 100, digits, " %")


def points(estimate: Estimate, digits: int = 1) -> str:
    """A difference of shares in percentage points, with its sign."""
    return _written(estimate, 100, digits, "", sign="+")


def number(estimate: Estimate, digits: int = 3) -> str:
    """Any figure and its interval."""
    return _written(estimate, 1, digits, "")


def kilobytes(estimate: Estimate) -> str:
    """Bytes, as kB of 1000."""
    return _written(estimate, 1e-3, 1, " kB")


def parted(text: str) -> tuple[str, str] | None:
    """A figure and its interval, each in a text of its own; None of what is none with an interval."""
    found = _FIGURE.fullmatch(text)
    return None if found is None else (found[1], found[2])


def _written(estimate: Estimate, factor: float, digits: int, unit: str, sign: str = "") -> str:
    value, low, high = (factor * each for each in (estimate.value, estimate.low, estimate.high))
    if math.isnan(value):
        return NONE
    told = "∞" if math.isinf(value) else f"{value:{sign}.{digits}f}{unit}"
    return told if math.isnan(low) else f"{told} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


def share(value: float, places: int = 1) -> str:
    """As a percentage: "57.6 %"."""
    return f"{100 * value:.{places}f} %"


def digits(value: float) -> str:
    """Three of them, and all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def escaped(text: str) -> str:
    """As Markdown shows it, in one line: no link, picture, entity or formula comes of it."""
    return re.sub(r"([\\|*_<>`\[\]&~$])", r"\\\1", " ".join(text.splitlines()))


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table of Markdown; the first columns are words, the others figures."""
    align = ["---"] * words + ["---:"] * (len(titles) - words)
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, align, *rows))


def part_lines(parts: Sequence[Table | Plot | Example], plots: str) -> list[str]:
    """Paragraphs of Markdown of a section's parts; `plots` is the folder of the plots' SVG files."""
    lines: list[str] = []
    for part in parts:
        if isinstance(part, Plot):
            title = escaped(part.title)
            lines.append(f"![{title}]({plots}/{part.name}.svg)")
            lines.append(f"*{title}.* {escaped(part.caption)}".strip())
        elif isinstance(part, Table):
            lines.append(
                markdown_table([*map(escaped, part.columns)], ([*map(escaped, row)] for row in part.rows))
            )
            lines += [escaped(part.note)] if part.note else []
        else:
            told = "; ".join(f"{what} {text}" for what, text in part.answers)
            lines.append(f"* **{part.title}**: {escaped(part.question)} {escaped(told)}")
    return lines


def templates(*, autoescape: bool = False) -> Environment:
    """Those of reports and tables."""
    loader = PackageLoader("secondlook.benchmarks.report")
    return Environment(
        trim_blocks=True, lstrip_blocks=True, autoescape=autoescape, loader=loader, undefined=StrictUndefined
    )


def as_page(document: Document) -> str:
    environment = templates(autoescape=True)
    for name, kind in {"a_plot": Plot, "a_table": Table, "an_example": Example}.items():
        environment.tests[name] = lambda part, kind=kind: isinstance(part, kind)
    environment.filters |= {"figure": parted, "data_uri": _data_uri}
    light, dark = palettes()
    return environment.get_template("page.html").render(document=document, light=light, dark=dark)


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def as_markdown(document: Document, plots: str) -> str:
    lines = [f"# {escaped(document.title)}", escaped(document.lead)]
    for section in document.sections:
        lines += [f"## {section.title}", *map(escaped, section.text), *part_lines(section.parts, plots)]
    return "\n\n".join(lines) + "\n"
