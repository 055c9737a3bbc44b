"""The README's times of the operators are those of the committed results, all of them."""

from __future__ import annotations

from typing import Any

from repository import ROOT
from secondlook.benchmarks.tables import operators as markdown

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


def test_a_report_is_a_caption_and_a_table() -> None:
    assert markdown.operators_markdown([REPORT]) == SHOWN


def test_references_and_an_unknown_commit_are_named() -> None:
    unknown = {**REPORT, "environment": {**REPORT["environment"], "commit": None}}
    shown = markdown.operators_markdown([{**unknown, "implementation": "reference"}])
    assert shown.startswith("Reference operators on ")
    assert "commit unknown;" in shown
