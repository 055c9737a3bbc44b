"""Marked parts of documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondlook.benchmarks.documents import fill, filled


def test_what_is_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- some -->\nold\nlines\n<!-- end of some -->\nafter\n", encoding="utf-8")
    fill(page, "some", "new\n")
    expected = "before\n<!-- some -->\nnew\n<!-- end of some -->\nafter\n"
    assert page.read_text(encoding="utf-8") == expected


@pytest.mark.parametrize(
    "document", ["nothing here", "<!-- some -->\n", "<!-- end of some -->\n<!-- some -->\n"]
)
def test_a_document_without_markers_is_refused(document: str) -> None:
    with pytest.raises(ValueError, match="lacks the lines <!-- some --> and <!-- end of some -->"):
        filled(document, "some", "text\n")
