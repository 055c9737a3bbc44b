"""The results of `secondlook bench kernels` as the README shows them, a table for each file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secondlook.benchmarks.documents import digits

__all__ = ["operators_markdown"]


def operators_markdown(reports: Sequence[dict[str, Any]]) -> str:
    """For each report a line on what it was measured on, and its rows."""
    return "\n\n".join(f"{_caption(report)}\n\n{_table(report['rows'])}" for report in reports) + "\n"


def _caption(report: dict[str, Any]) -> str:
    on = report["environment"]
    kind = "Reference" if report["implementation"] == "reference" else "Compiled"
    return (
        f"{kind} operators on {on['device']} ({report['threads']} CPU threads), torch {on['torch']}, "
        f"commit {on['commit'] or 'unknown'}; a large copy moves "
        f"{report['copy_gigabytes_per_second']:.0f} GB/s:"
    )


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| operator | shape | dtype | µs | PyTorch, µs | floor, µs | speedup |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        times = (row["microseconds"], row["composition_microseconds"], row["floor_microseconds"])
        cells = " | ".join(digits(microseconds) for microseconds in times)
        lines.append(
            f"| `{row['operator']}` | {row['shape']} | {row['dtype']} | {cells} | {row['speedup']:.1f}x |"
        )
    return "\n".join(lines)
