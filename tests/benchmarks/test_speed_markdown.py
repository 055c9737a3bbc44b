"""The README's latency, FLOPs, load and prefill are those of the committed results, all of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from repository import ROOT
from secondlook.benchmarks import speed_markdown as markdown
from secondlook.benchmarks.documents import filled

RESULTS = [
    path
    for kind in ("latency", "flops", "load", "prefill")
    for path in sorted((ROOT / "benchmarks" / "results").glob(f"{kind}-*.json"))
]
ON = {"device": "A CPU", "dtype": "float32", "torch": "2.99.0", "transformers": "5.0.0", "commit": None}


def row(request: str, metric: str, flow: str, milliseconds: float) -> dict[str, Any]:
    times = {"p50_ms": milliseconds, "p90_ms": 2 * milliseconds, "p99_ms": 3 * milliseconds}
    return {"request": request, "metric": metric, "flow": flow, **times, "ceiling_ms": 0.5, "count": 7}


LATENCY: dict[str, Any] = {
    "speedup_reference": 3.0,
    "speedup_strong": 2.0,
    "preset": "small",
    "new_tokens": 4,
    "environment": ON,
    "threads": 2,
    "rows": [
        row("unsure", "first_token", "reference", 1234.5),
        row("unsure", "first_token", "strong", 99.96),
        *(row("unsure", "final_answer", flow, time) for flow, time in (("reference", 9), ("strong", 6))),
        row("unsure", "final_answer", "ours", 3),
        row("sure", "first_answer", "ours", 2),
        row("sure", "final_answer", "ours", 2),
    ],
    "memory": [
        {"request": "unsure", "flow": flow, "peak_bytes": 2**30} for flow in ("reference", "strong", "ours")
    ],
}
LATENCY_SHOWN = """\
**Latency**, `small`, 4 tokens an answer: the final answer to an unsure request 3.00 times as fast as by the \
reference flow, 2.00 times as fast as by the stronger one. Medians of 7 requests of each kind, float32 on \
A CPU (2 CPU threads), torch 2.99.0, transformers 5.0.0, commit unknown:

| request | until | reference, ms | stronger, ms | secondlook, ms | 90 % | 99 % | ceiling, ms |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
| unsure | first token | 1234 | 100 | - | - | - | - |
| unsure | final answer | 9 | 6 | 3 | 6 | 9 | 0.5 |
| sure | first answer | - | - | 2 | 4 | 6 | 0.5 |
| unsure | peak memory | 1024 MiB | 1024 MiB | 1024 MiB | | | |
"""
FLOPS: dict[str, Any] = {
    "flops_ratio": 0.394,
    "preset": "small",
    "new_tokens": 4,
    "environment": {**ON, "commit": "0123456789ab"},
    "rows": [
        {
            "flow": "ours",
            "first_answer": 1.5e12,
            "final_answer": 3e12,
            "ratio": 0.394,
            "relative_computation_sure": 1.0,
            "relative_computation_unsure": 2.03,
        }
    ],
    "passes": [{"deviation": -0.0001}, {"deviation": 0.00002}],
}
FLOPS_SHOWN = """\
**FLOPs**, `small`, 4 tokens an answer, an unsure request, commit 0123456789ab; the formulas are within \
0.01% of torch's own count of each pass:

| flow | first answer, GFLOP | final answer, GFLOP | of the reference | relative computation, sure | unsure |
| --- | ---: | ---: | ---: | ---: | ---: |
| secondlook | 1500 | 3000 | 0.394 | 1.00 | 2.03 |
"""
LOAD: dict[str, Any] = {
    "speedup_sequential": 2.5,
    "preset": "demo",
    "retransmission_rate": 0.4,
    "delay_ms": 0.0,
    "new_tokens": 4,
    "environment": ON,
    "threads": 2,
    "rows": [
        {
            "edges": 16,
            "answers_per_second": 31.25,
            "speedup": 2.5,
            "p50_ms": 500.1,
            "p90_ms": 600.0,
            "p99_ms": 700.0,
            "refusals": 3,
            "failures": 0,
        }
    ],
}
LOAD_SHOWN = """\
**Load**, `demo`, 4 tokens an answer, 40% of the questions looked at twice, 0 ms of network each way, \
float32 on A CPU (2 CPU threads), torch 2.99.0, transformers 5.0.0, commit unknown:

| edges | answers a second | of one edge's | median, ms | 90 % | 99 % | refused | failed |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| 16 | 31.2 | 2.50 | 500 | 600 | 700 | 3 | 0 |
"""
PREFILL: dict[str, Any] = {
    "two_passes": {"unsure": 1.02},
    "preset": "small",
    "repeats": 20,
    "environment": ON,
    "threads": 2,
    "rows": [{"request": "unsure", "one_pass_ms": 1020.0, "two_passes_ms": 1000.0, "speedup": 1.02}],
}
PREFILL_SHOWN = """\
**Prefill**, `small`, without the vision encoder: medians of 20, float32 on A CPU (2 CPU threads), torch \
2.99.0, transformers 5.0.0, commit unknown:

| request | both questions in one pass, ms | a short pass for the generic one, ms | speed-up |
| --- | ---: | ---: | ---: |
| unsure | 1020 | 1000 | 1.020 |
"""


def test_the_readme_shows_the_committed_results() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS]
    assert reports
    assert filled(text, markdown.MARKER, markdown.speed_markdown(reports)) == text


@pytest.mark.parametrize(
    ("report", "shown"),
    [(LATENCY, LATENCY_SHOWN), (FLOPS, FLOPS_SHOWN), (LOAD, LOAD_SHOWN), (PREFILL, PREFILL_SHOWN)],
)
def test_a_report_is_a_caption_and_a_table(report: dict[str, Any], shown: str) -> None:
    assert markdown.speed_markdown([report]) == shown


def test_a_report_of_another_benchmark_is_refused() -> None:
    with pytest.raises(ValueError, match="of another benchmark"):
        markdown.speed_markdown([{"rows": []}])


def test_the_command_writes_reports_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in ("load.json", "flops.json", "page.md")]
    for path, report in zip(paths, (LOAD, FLOPS), strict=False):
        path.write_text(json.dumps(report), encoding="utf-8")
    paths[2].write_text("a\n<!-- speed -->\nold\n<!-- end of speed -->\nz\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["speed_markdown", *map(str, paths)])
    markdown.main()
    expected = f"a\n<!-- speed -->\n{LOAD_SHOWN}\n{FLOPS_SHOWN}<!-- end of speed -->\nz\n"
    assert paths[2].read_text(encoding="utf-8") == expected
