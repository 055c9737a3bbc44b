"""A report as one HTML page that needs nothing else: no network, no scripts, no fonts of its own."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from secondlook.benchmarks.report.document import Document, Example, Plot, Table
from secondlook.benchmarks.report.style import PALETTE
from secondlook.benchmarks.report.words import parted

__all__ = ["as_page"]


def as_page(documents: Sequence[Document]) -> str:
    """Whole documents on one page."""
    environment = Environment(
        loader=PackageLoader("secondlook.benchmarks.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests |= {
        "a_plot": lambda part: isinstance(part, Plot),
        "a_table": lambda part: isinstance(part, Table),
        "an_example": lambda part: isinstance(part, Example),
    }
    environment.filters |= {
        "figure": parted,
        "data_uri": _data_uri,
    }
    light, dark = (
        "".join(f"--{name}:{pair[scheme]};" for name, pair in PALETTE.items()) for scheme in (0, 1)
    )
    page = environment.get_template("page.html")
    return page.render(documents=documents, light=light, dark=dark)


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
