"""The documents' tables are those of the committed results, and their plots are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.logs import header, random_records, write_run
from repository import ROOT
from secondlook.benchmarks.report import figures
from secondlook.benchmarks.report.figures import filled


@pytest.mark.parametrize("part", figures.PARTS, ids=lambda part: part.name)
def test_a_document_shows_the_committed_results(part: figures.Part) -> None:
    text = (ROOT / part.document).read_text(encoding="utf-8")
    assert filled(text, part.name, part.written(part.files(ROOT), part.document)) == text


def test_every_part_of_the_documents_is_written_by_the_command() -> None:
    for document in {part.document for part in figures.PARTS}:
        text = (ROOT / document).read_text(encoding="utf-8")
        begun = re.findall(r"^<!-- (?!end of|not run)(.+) -->$", text, re.MULTILINE)
        assert sorted(begun) == sorted(part.name for part in figures.PARTS if part.document == document)


def test_the_plots_that_the_documents_show_are_there() -> None:
    shown = set()
    for document in {part.document for part in figures.PARTS}:
        for link in re.findall(r"\]\(([^):]+\.svg)\)", (ROOT / document).read_text(encoding="utf-8")):
            shown.add((ROOT / document).parent.joinpath(link).resolve())
    assert {path for path in shown if path.parent == ROOT / figures.PLOTS} == set(
        (ROOT / figures.PLOTS).iterdir()
    )
    assert all(path.stat().st_size for path in shown)


def test_evidence_is_tables_then_plots(tmp_path: Path) -> None:
    records = random_records(12)
    logs = [
        write_run(tmp_path / f"{quality}.jsonl", records, header(quality=quality)) for quality in (90, 50)
    ]
    plots = tmp_path / "plots"
    text = figures.evidence(logs, Path("README.md"), plots)
    elsewhere = figures.evidence(logs, Path("docs/accuracy.md"))
    assert text == elsewhere.replace("](plots/", "](docs/plots/")
    assert text.index("| one look |") < text.index("| claim |") < text.index("![")
    named = re.findall(r"\(docs/plots/(.+)\)", text)
    assert sorted(named) == sorted(path.name for path in plots.iterdir())
    assert all(path.read_text(encoding="utf-8").startswith("<?xml") for path in plots.iterdir())


def test_results_that_are_missing_are_named(tmp_path: Path) -> None:
    part = next(part for part in figures.PARTS if part.name == "operators")
    with pytest.raises(FileNotFoundError, match=r"benchmarks/results/kernels-\*\.json"):
        part.files(tmp_path)


def test_what_is_between_the_markers_is_replaced() -> None:
    page = "before\n<!-- some -->\nold\nlines\n<!-- end of some -->\nafter\n"
    assert filled(page, "some", "new\n") == "before\n<!-- some -->\nnew\n<!-- end of some -->\nafter\n"


@pytest.mark.parametrize(
    "document", ["nothing here", "<!-- some -->\n", "<!-- end of some -->\n<!-- some -->\n"]
)
def test_a_document_without_markers_is_refused(document: str) -> None:
    with pytest.raises(ValueError, match="lacks the lines <!-- some --> and <!-- end of some -->"):
        filled(document, "some", "text\n")
