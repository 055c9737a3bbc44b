"""What a report consists of, however it is written: sections of text, tables, plots and examples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from matplotlib.figure import Figure

from secondlook.benchmarks.report.style import svg

__all__ = ["Document", "Example", "Panel", "Plot", "Section", "Table"]


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
    """One picture of an example, as a JPEG file. `sent`: it is what the edge sent, pixel by pixel."""

    jpeg: bytes
    width: int
    height: int
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
    """One subject."""

    title: str
    text: tuple[str, ...]
    parts: tuple[Table | Plot | Example, ...] = ()


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    lead: str
    sections: tuple[Section, ...]
