"""What the edge costs, as the README shows it."""

from __future__ import annotations

from typing import Any

from secondlook.benchmarks.tables import edge as markdown


def costs(milliseconds: float, megabytes: float, sent_bytes: float) -> dict[str, Any]:
    return {
        "p50_ms": milliseconds,
        "p90_ms": 2 * milliseconds,
        "cpu_seconds": milliseconds / 1000,
        "peak_mb": megabytes,
        "sent_bytes": sent_bytes,
    }


REPORT: dict[str, Any] = {
    "speedup_global_jpeg": 3.456,
    "command_peak_mb": 106.7,
    "image_size": 336,
    "resize_mode": "squash",
    "rounds": 20,
    "environment": {"device": "A CPU", "pillow": "13.0.0", "python": "3.11.7", "commit": "0123456789ab"},
    "libjpeg_turbo": "3.2.0",
    "commands": [
        {"picture": "baseline", "progressive": False, "peak_mb": 106.7, "cpu_seconds": 0.6},
        {"picture": "progressive", "progressive": True, "peak_mb": 141.4, "cpu_seconds": 1.0},
    ],
    "rows": [
        {
            "kind": "jpeg",
            "megapixels": 12.0,
            "sent": "global",
            "speedup": 3.456,
            "edge": costs(47.31, 57.2, 32_463.4),
            "plain": costs(163.5, 101.6, 33_803.0),
            "original_bytes": 3_664_010.5,
        },
        {
            "kind": "raw",
            "megapixels": 0.5,
            "sent": "both",
            "speedup": 2.0,
            "edge": costs(5.0, 60.0, 1000.0),
            "plain": costs(10.0, 70.0, 1100.0),
            "original_bytes": 1_500_000.0,
        },
    ],
}
SHOWN = """\
The global image of a 12-megapixel JPEG is made 3.5 times as fast as plainly (aim: 3). `secondlook-edge` \
takes at most 107 MB for both looks at such a picture (aim: 120), 141 MB if the JPEG is progressive. A raw \
frame is copied when it is opened, for the camera may overwrite it, and its JPEGs are \
compressed in two passes: with a local image alone, both show. Medians of 20 pictures, for an encoder of 336 \
pixels (`squash`), on A CPU, \
Pillow 13.0.0, libjpeg-turbo 3.2.0, Python 3.11.7, commit 0123456789ab:

| picture | sent | ms | 90 % | plain, ms | faster | CPU s | plain, CPU s | peak, MB | plain, MB | kB \
| plain, kB | of the original |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| 12 MP JPEG | global | 47.3 | 94.6 | 164 | 3.46x | 0.0473 | 0.164 | 57 | 102 | 32.5 | 33.8 | 0.89% |
| 0.5 MP raw frame | both | 5 | 10 | 10 | 2.00x | 0.005 | 0.01 | 60 | 70 | 1 | 1.1 | 0.07% |
"""


def test_a_report_is_what_it_found_and_a_table() -> None:
    assert markdown.edge_markdown([REPORT]) == SHOWN


def test_an_unknown_commit_is_named() -> None:
    unknown = {**REPORT, "environment": {**REPORT["environment"], "commit": None}}
    assert "commit unknown:" in markdown.edge_markdown([unknown])
