"""The README's times of the operators are those of the committed results, all of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from repository import ROOT
from secondlook.benchmarks import operators_markdown as markdown
from secondlook.benchmarks.documents import filled

RESULTS = sorted((ROOT / "benchmarks" / "results").glob("kernels-*.json"))
REPORT: dict[str, Any] = {
    "environment": {"device": "A CPU", "torch": "2.99.0", "commit": "0123456789ab"},
    "implementation": "cache",
    "threads": 4,
    "copy_gigabytes_per_second": 12.34,
    "rows": [
        {
            "operator": "token_statistics",
            "device": "cpu",
            "dtype": "float32",
            "shape": "B=1 V=32064",
            "microseconds": 22.5999,
            "composition_microseconds": 9515.13,
            "floor_microseconds": 0.03370,
            "speedup": 421.02,
        }
    ],
}
SHOWN = """\
Compiled operators on A CPU (4 CPU threads), torch 2.99.0, commit 0123456789ab; a large copy moves 12 GB/s:

| operator | shape | dtype | µs | PyTorch, µs | floor, µs | speedup |
| --- | --- | --- | ---: | ---: | ---: | ---: |
| `token_statistics` | B=1 V=32064 | float32 | 22.6 | 9515 | 0.0337 | 421.0x |
"""


def test_the_readme_shows_the_committed_results() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS]
    assert reports
    assert filled(text, markdown.MARKER, markdown.operators_markdown(reports)) == text


def test_a_report_is_a_caption_and_a_table() -> None:
    assert markdown.operators_markdown([REPORT]) == SHOWN


def test_references_and_an_unknown_commit_are_named() -> None:
    unknown = {**REPORT, "environment": {**REPORT["environment"], "commit": None}}
    shown = markdown.operators_markdown([{**unknown, "implementation": "reference"}])
    assert shown.startswith("Reference operators on ")
    assert "commit unknown;" in shown


def test_the_command_writes_a_table_for_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in ("cpu.json", "gpu.json", "page.md")]
    for path in paths[:2]:
        path.write_text(json.dumps(REPORT), encoding="utf-8")
    paths[2].write_text("a\n<!-- operators -->\nold\n<!-- end of operators -->\nz\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["operators_markdown", *map(str, paths)])
    markdown.main()
    expected = f"a\n<!-- operators -->\n{SHOWN}\n{SHOWN}<!-- end of operators -->\nz\n"
    assert paths[2].read_text(encoding="utf-8") == expected
