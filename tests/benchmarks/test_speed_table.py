"""The README's latency, FLOPs, load and prefill are those of the committed results, all of them."""

from __future__ import annotations

from typing import Any

import pytest

from repository import ROOT
from secondlook.benchmarks.tables import speed as markdown

RESULTS = [
    path
    for kind in ("latency", "flops", "load", "prefill")
    for path in sorted((ROOT / "benchmarks" / "results").glob(f"{kind}-*.json"))
]
ON = {"device": "A CPU", "dtype": "float32", "torch": "2.99.0", "transformers": "5.0.0", "commit": None}


def row(request: str, metric: str, flow: str, milliseconds: float) -> dict[str, Any]:
    times = {"p50_ms": milliseconds, "p90_ms": 2 * milliseconds, "p99_ms": 3 * milliseconds}
    times["max_ms"] = 4 * milliseconds
    return {"request": request, "metric": metric, "flow": flow, **times, "ceiling_ms": 0.5, "count": 7}


LATENCY: dict[str, Any] = {
    "speedup_reference": 3.0,
    "speedup_strong": 2.0,
    "speedup_encoding_once": 1.5,
    "preset": "small",
    "new_tokens": 4,
    "environment": ON,
    "threads": 2,
    "rows": [
        row("unsure", "first_token", "reference", 1234.5),
        row("unsure", "first_token", "strong", 99.96),
        row("unsure", "final_answer", "reference", 9),
        row("unsure", "final_answer", "strong", 6),
        row("unsure", "final_answer", "encoding_once", 4.5),
        row("unsure", "final_answer", "ours", 3),
        row("sure", "first_answer", "ours", 2),
        row("sure", "final_answer", "ours", 2),
    ],
    "agreement": {"ours": {"first_tokens": 1.0, "region": 0.75, "second_tokens": 0.5}},
    "memory": [
        {"request": "unsure", "flow": flow, "extra_bytes": 2**28 * (1 + number)}
        for number, flow in enumerate(("reference", "strong", "encoding_once", "ours"))
    ],
    "slots_bytes": 2**23,
}
LATENCY_SHOWN = """\
**Latency**, `small`, 4 tokens an answer: an unsure request's final answer comes 3.00 times as fast \
as by the reference flow, 2.00 times as by the stronger one, 1.50 times as by encoding once. 100% of \
first answers, 75% of regions and 50% of second answers equal the reference flow's. Medians of 7 \
requests of each kind, float32 on A CPU (2 CPU threads), torch 2.99.0, transformers 5.0.0, commit \
unknown; secondlook's slots hold 8 MiB:

| request | until | reference, ms | stronger, ms | encoding once, ms | secondlook, ms | 90 % | slowest \
| ceiling, ms |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| unsure | first token | 1234 | 100 | - | - | - | - | - |
| unsure | final answer | 9 | 6 | 4.5 | 3 | 6 | 12 | 0.5 |
| sure | first answer | - | - | - | 2 | 4 | 8 | 0.5 |
| unsure | extra memory | 256 MiB | 512 MiB | 768 MiB | 1024 MiB | | | |
"""
FLOPS: dict[str, Any] = {
    "flops_ratio": 0.394,
    "relative_computation": 1.41,
    "retransmission_rate": 0.4,
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
            "relative_computation": 1.41,
        }
    ],
    "passes": [{"deviation": -0.0001}, {"deviation": 0.00002}],
}
FLOPS_SHOWN = """\
**FLOPs**, `small`, 4 tokens an answer, an unsure request, commit 0123456789ab; the formulas are within \
0.01% of torch's own count of each pass:

| flow | first answer, GFLOP | final answer, GFLOP | of the reference | relative computation, sure | unsure \
| 40% unsure |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| secondlook | 1500 | 3000 | 0.394 | 1.00 | 2.03 | 1.41 |
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
    "rows": [
        {
            "request": "unsure",
            "one_pass_ms": 1020.0,
            "two_passes_ms": 1000.0,
            "speedup": 1.02,
            "ceiling_ms": 800.0,
        }
    ],
}
PREFILL_SHOWN = """\
**Prefill**, `small`, without the vision encoder: medians of 20, float32 on A CPU (2 CPU threads), torch \
2.99.0, transformers 5.0.0, commit unknown:

| request | both questions in one pass, ms | a short pass for the generic one, ms | its ceiling, ms \
| speed-up |
| --- | ---: | ---: | ---: | ---: |
| unsure | 1020 | 1000 | 800 | 1.020 |
"""


@pytest.mark.parametrize(
    ("report", "shown"),
    [(LATENCY, LATENCY_SHOWN), (FLOPS, FLOPS_SHOWN), (LOAD, LOAD_SHOWN), (PREFILL, PREFILL_SHOWN)],
)
def test_a_report_is_a_caption_and_a_table(report: dict[str, Any], shown: str) -> None:
    assert markdown.speed_markdown([report]) == shown


def test_a_report_of_another_benchmark_is_refused() -> None:
    with pytest.raises(ValueError, match="of another benchmark"):
        markdown.speed_markdown([{"rows": []}])
