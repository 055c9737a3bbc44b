"""The results of `secondlook bench edge` as the README shows them, a table for each file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from secondlook.benchmarks.documents import digits
from secondlook.benchmarks.edge.edge import AIM_PEAK_MB, AIM_SPEEDUP

__all__ = ["edge_markdown"]

_TITLES: Final = (
    *("ms", "90 %", "plain, ms", "faster", "CPU s", "plain, CPU s", "peak, MB", "plain, MB"),
    *("kB", "plain, kB", "of the original"),
)
_KINDS: Final = {"jpeg": "JPEG", "raw": "raw frame"}

Report = dict[str, Any]


def edge_markdown(reports: Sequence[Report]) -> str:
    """For each report what it found and was measured on, and its rows."""
    return "\n\n".join(f"{_caption(report)}\n\n{_table(report['rows'])}" for report in reports) + "\n"


def _caption(report: Report) -> str:
    on = report["environment"]
    largest = max(row["megapixels"] for row in report["rows"])
    (progressive,) = (row["peak_mb"] for row in report["commands"] if row["progressive"])
    return (
        f"The global image of a {largest:g}-megapixel JPEG is made {report['speedup_global_jpeg']:.1f} times "
        f"as fast as plainly (aim: {AIM_SPEEDUP:g}). `secondlook-edge` takes at most "
        f"{report['command_peak_mb']:.0f} MB for both looks at such a picture (aim: {AIM_PEAK_MB:g}), "
        f"{progressive:.0f} MB if the JPEG is progressive. A raw frame is copied when it is opened, for the "
        "camera may overwrite it, and its JPEGs are compressed in two passes: with a local image alone, both "
        f"show. Medians of {report['rounds']} pictures, for an encoder of {report['image_size']} pixels "
        f"(`{report['resize_mode']}`), on {on['device']}, Pillow {on['pillow']}, "
        f"libjpeg-turbo {report['libjpeg_turbo']}, Python {on['python']}, commit {on['commit'] or 'unknown'}:"
    )


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [f"| picture | sent | {' | '.join(_TITLES)} |", f"| --- | --- |{' ---: |' * len(_TITLES)}"]
    for row in rows:
        edge, plain = row["edge"], row["plain"]
        cells = (
            digits(edge["p50_ms"]),
            digits(edge["p90_ms"]),
            digits(plain["p50_ms"]),
            f"{row['speedup']:.2f}x",
            digits(edge["cpu_seconds"]),
            digits(plain["cpu_seconds"]),
            f"{edge['peak_mb']:.0f}",
            f"{plain['peak_mb']:.0f}",
            digits(edge["sent_bytes"] / 1e3),
            digits(plain["sent_bytes"] / 1e3),
            f"{edge['sent_bytes'] / row['original_bytes']:.2%}",
        )
        picture = f"{row['megapixels']:g} MP {_KINDS[row['kind']]}"
        lines.append(f"| {picture} | {row['sent']} | {' | '.join(cells)} |")
    return "\n".join(lines)
