"""What the documents show of each measurement."""

from __future__ import annotations

import json
from typing import Any

import pytest

from repository import ROOT
from secondlook.benchmarks.report import tables
from secondlook.engine import load_model

ON = {
    "device": "A CPU",
    "dtype": "float32",
    "torch": "2.99.0",
    "transformers": "5.0.0",
    "onnxruntime": "1.31.1",
    "openvino": "2026.4.1",
    "commit": None,
}

RESULTS = ROOT / "benchmarks" / "results" / "signs-test-4242.json"


@pytest.fixture
def report() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return loaded


def test_the_committed_results_are_of_the_committed_model(report: dict[str, Any]) -> None:
    model = load_model("demo")
    assert report["weights"] == model.digest()
    assert report["threshold"] == model.settings.default_threshold
    calibration = json.loads((RESULTS.parent / "signs-calibration-1.json").read_text(encoding="utf-8"))
    assert calibration["weights"] == report["weights"]
    assert round(calibration["calibrated_threshold"], 4) == report["threshold"]


def test_aims_that_are_missed_are_named(report: dict[str, Any]) -> None:
    report.update(
        accuracy_global=0.6,
        accuracy_full=0.93,
        of_full=0.98,
        retransmission_rate=0.5,
        auroc=0.9,
        region_hit=0.92,
    )
    assert tables.missed(report) == []
    assert "Every aim is reached." in tables.results(report)
    worse = {
        "accuracy_global": 0.71,
        "accuracy_full": 0.929,
        "of_full": 0.979,
        "retransmission_rate": 0.51,
        "auroc": 0.89,
        "region_hit": 0.91,
    }
    for key, value in worse.items():
        assert len(tables.missed({**report, key: value})) == 1
    assert set(tables.missed({**report, **worse})) == set(tables.AIMS)


VISION: dict[str, Any] = {
    "preset": "small",
    "repeats": 20,
    "threads": 2,
    "environment": ON,
    "rows": [
        {
            "encoder": "onnx float32",
            "batch": 1,
            "p50_ms": 512.3,
            "p90_ms": 600.0,
            "speedup": 1.25,
            "relative_error": 2e-7,
            "passes": True,
        },
        {
            "encoder": "onnx int8",
            "batch": 2,
            "p50_ms": 99.96,
            "p90_ms": 100.0,
            "speedup": 10.0,
            "relative_error": 0.25,
            "passes": False,
        },
    ],
}
CELL = {"worst_deviation": 0.018, "loss_in_blocks": 0.0024}
BUDGET: dict[str, Any] = {
    "window": 500,
    "warm_up": 200,
    "phase": 1000,
    "repeats": 5,
    "questions": 3000,
    "within_half_a_point": 2,
    "cells": 3,
    "mean_loss_in_blocks": 0.0069,
    "environment": ON,
    "streams": {"steady": {"0.2": CELL, "0.4": CELL}, "sudden": {"0.4": {**CELL, "loss_in_blocks": 0.02}}},
}
VISION_SHOWN = """\
The vision encoder of `small` with random weights, medians of 20, on A CPU (2 CPU threads), torch 2.99.0, \
ONNX Runtime 1.31.1, OpenVINO 2026.4.1, commit unknown:

| encoder | pictures | ms | 90 %, ms | beside torch float32 | relative error | small enough |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| onnx float32 | 1 | 512 | 600 | 1.25x | 2.0e-07 | yes |
| onnx int8 | 2 | 100 | 100 | 10.00x | 2.5e-01 | no |
"""


def costs(milliseconds: float, megabytes: float, sent_bytes: float) -> dict[str, Any]:
    return {
        "p50_ms": milliseconds,
        "p90_ms": 2 * milliseconds,
        "cpu_seconds": milliseconds / 1000,
        "peak_mb": megabytes,
        "sent_bytes": sent_bytes,
    }


EDGE: dict[str, Any] = {
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
EDGE_SHOWN = """\
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
OPERATORS: dict[str, Any] = {
    "environment": {**ON, "commit": "0123456789ab"},
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
OPERATORS_SHOWN = """\
Compiled operators on A CPU (4 CPU threads), torch 2.99.0, commit 0123456789ab; a large copy moves 12 GB/s:

| operator | shape | dtype | µs | PyTorch, µs | floor, µs | speedup |
| --- | --- | --- | ---: | ---: | ---: | ---: |
| `token_statistics` | B=1 V=32064 | float32 | 22.6 | 9515 | 0.0337 | 421.0x |
"""


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
| unsure | extra memory | 256 MiB | 512 MiB | 768 MiB | 1024 MiB |  |  |  |
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
}
FLOPS_SHOWN = """\
**FLOPs**, `small`, 4 tokens an answer, an unsure request, commit 0123456789ab, counted by torch \
on shapes alone:

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
REPLAY: dict[str, Any] = {
    "seconds_replaying": 2.06,
    "seconds_reading": 3.44,
    "rows": 100000,
    "log_bytes": 141_645_120,
    "curves": 198,
    "environment": ON,
}
REPLAY_SHOWN = """\
**Replay**: 100000 records (142 MB) read in 3.4 s; 198 curves, each of every threshold, in 2.1 s, on A CPU, \
commit unknown.
"""


@pytest.mark.parametrize(
    ("kind", "report", "shown"),
    [
        ("latency", LATENCY, LATENCY_SHOWN),
        ("flops", FLOPS, FLOPS_SHOWN),
        ("load", LOAD, LOAD_SHOWN),
        ("prefill", PREFILL, PREFILL_SHOWN),
        ("replay", REPLAY, REPLAY_SHOWN),
        ("kernels", OPERATORS, OPERATORS_SHOWN),
        ("edge", EDGE, EDGE_SHOWN),
        ("vision", VISION, VISION_SHOWN),
    ],
)
def test_a_report_is_a_caption_and_a_table(kind: str, report: dict[str, Any], shown: str) -> None:
    assert tables.measured(kind, report) == shown


def test_a_flow_that_a_model_does_not_have_is_left_out() -> None:
    rows, memory = (
        [one for one in LATENCY[part] if one["flow"] != "encoding_once"] for part in ("rows", "memory")
    )
    report = {name: value for name, value in LATENCY.items() if name != "speedup_encoding_once"}
    shown = tables.measured("latency", {**report, "rows": rows, "memory": memory})
    assert "2.00 times as by the stronger one. 100% of first answers" in shown
    assert "| unsure | extra memory | 256 MiB | 512 MiB | 1024 MiB |  |  |  |" in shown.splitlines()


def test_references_and_unknown_commits_are_named() -> None:
    shown = tables.measured("kernels", {**OPERATORS, "environment": ON, "implementation": "reference"})
    assert shown.startswith("Reference operators on ")
    assert "commit unknown;" in shown


def test_the_budget_is_a_row_a_stream_and_a_column_a_rate() -> None:
    text, table = tables.measured("budget", BUDGET).split("\n\n")
    assert "over any 500 questions after the first 200" in text
    assert "thresholds fixed for each 500 questions" in text  # blocks are windows, not phases
    assert "in 2 of 3 cases, 0.69 points in the mean. Commit unknown." in text
    assert table == (
        "| stream | 20% | 40% |\n| --- | ---: | ---: |\n"
        "| steady | 1.8 (0.2) | 1.8 (0.2) |\n| sudden |  | 1.8 (2.0) |\n"
    )


def test_the_headline_is_of_all_three_reports(report: dict[str, Any]) -> None:
    latency = {**LATENCY, "environment": {**ON, "device": "Another CPU"}}
    shown = tables.headline(report, latency, LOAD)
    rows = [line for line in shown.splitlines() if line.startswith("| ")][2:]
    assert 8 <= len(rows) <= 12
    assert (
        "| answer after two looks, beside the published flow | 3.00 times as fast | `bench latency` |" in rows
    )
    assert "| answers a second to 16 edges, of one edge's | 2.50 | `bench load` |" in rows
    assert f"| {100 * report['accuracy']:.1f} % |" in shown
    assert f"{report['environment']['device']}; latency on Another CPU; load on A CPU" in shown
