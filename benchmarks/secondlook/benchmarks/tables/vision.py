"""The results of `secondlook bench vision` as the README shows them, a table for each file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from secondlook.benchmarks.documents import digits

__all__ = ["vision_markdown"]


def vision_markdown(reports: Sequence[dict[str, Any]]) -> str:
    """For each report a line on what it was measured on, and its rows."""
    return "\n\n".join(f"{_caption(report)}\n\n{_table(report['rows'])}" for report in reports) + "\n"


def _caption(report: dict[str, Any]) -> str:
    on = report["environment"]
    return (
        f"The vision encoder of `{report['preset']}` with random weights, medians of {report['repeats']}, on "
        f"{on['device']} ({report['threads']} CPU threads), torch {on['torch']}, ONNX Runtime "
        f"{on['onnxruntime'] or 'unknown'}, commit {on['commit'] or 'unknown'}:"
    )


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| encoder | pictures | ms | 90 %, ms | beside torch float32 | relative error | small enough |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        passes = "yes" if row["passes"] else "no"
        lines.append(
            f"| {row['encoder']} | {row['batch']} | {digits(row['p50_ms'])} | {digits(row['p90_ms'])} | "
            f"{row['speedup']:.2f}x | {row['relative_error']:.1e} | {passes} |"
        )
    return "\n".join(lines)
