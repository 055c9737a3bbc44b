"""The documents' tables are those of the committed results, and their plots are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.logs import header, random_records, write_run
from repository import ROOT
from secondlook.benchmarks import figures
from secondlook.benchmarks.documents import filled

MARKED = [(name, document) for name, part in figures.PARTS.items() for document in part.documents]


@pytest.mark.parametrize(("name", "document"), MARKED, ids=lambda value: str(value))
def test_a_document_shows_the_committed_results(name: str, document: Path) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert filled(text, name, figures.PARTS[name].text(ROOT)) == text


def test_the_readme_shows_what_the_committed_logs_say() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert filled(text, figures.EVIDENCE, figures.evidence(figures.committed_logs(ROOT))) == text


def test_every_part_of_the_documents_is_written_by_the_command() -> None:
    for document in {document for _, document in MARKED}:
        begun = set(
            re.findall(r"^<!-- (?!end of|not run)(.+) -->$", (ROOT / document).read_text("utf-8"), re.M)
        )
        made = {name for name, where in MARKED if where == document}
        assert begun - {figures.EVIDENCE} == made


def test_the_plots_that_the_readme_shows_are_there() -> None:
    shown = set(re.findall(r"\]\((docs/[^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")))
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / figures.PLOTS).iterdir()}
    assert {path for path in shown if path.startswith(figures.PLOTS.as_posix())} == there
    assert all((ROOT / path).stat().st_size for path in shown)


def test_evidence_is_tables_then_plots(tmp_path: Path) -> None:
    records = random_records(12)
    logs = [
        write_run(tmp_path / f"{quality}.jsonl", records, header(quality=quality)) for quality in (90, 50)
    ]
    plots = tmp_path / "plots"
    text = figures.evidence(logs, plots)
    assert text == figures.evidence(logs)
    assert text.index("| one look |") < text.index("| claim |") < text.index("![")
    named = re.findall(r"\(docs/plots/(.+)\)", text)
    assert sorted(named) == sorted(path.name for path in plots.iterdir())
    assert all(path.read_text(encoding="utf-8").startswith("<?xml") for path in plots.iterdir())


def test_results_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"benchmarks/results/kernels-\*\.json"):
        figures.PARTS["operators"].text(tmp_path)
