"""The tables of the vision encoders and of the budget."""

from __future__ import annotations

from typing import Any

from secondlook.benchmarks.tables.budget import budget_markdown
from secondlook.benchmarks.tables.vision import vision_markdown

ON = {"device": "a CPU", "torch": "2.13.0", "onnxruntime": "1.31.1", "commit": None}
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


def test_the_encoders_are_rows() -> None:
    assert vision_markdown([VISION]) == (
        "The vision encoder of `small` with random weights, medians of 20, on a CPU (2 CPU threads), torch "
        "2.13.0, ONNX Runtime 1.31.1, commit unknown:\n\n"
        "| encoder | pictures | ms | 90 %, ms | beside torch float32 | relative error | small enough |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| onnx float32 | 1 | 512 | 600 | 1.25x | 2.0e-07 | yes |\n"
        "| onnx int8 | 2 | 100 | 100 | 10.00x | 2.5e-01 | no |\n"
    )


def test_the_budget_is_a_row_a_stream_and_a_column_a_rate() -> None:
    text, table = budget_markdown(BUDGET).split("\n\n")
    assert "over any 500 questions after the first 200" in text
    assert "thresholds fixed for each 500 questions" in text  # blocks are windows, not phases
    assert "in 2 of 3 cases, 0.69 points in the mean. Commit unknown." in text
    assert table == (
        "| stream | 20% | 40% |\n| --- | ---: | ---: |\n"
        "| steady | 1.8 (0.2) | 1.8 (0.2) |\n| sudden |  | 1.8 (2.0) |\n"
    )
