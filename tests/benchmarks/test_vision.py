"""The vision encoder's benchmark, on a small LLaVA: every encoder, every batch, and one JSON object last."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.small_llava import tiny_preset
from secondlook.benchmarks import benches
from secondlook.benchmarks.latency import subject
from secondlook.benchmarks.options import Graph, VisionRun
from secondlook.benchmarks.vision import bench_vision
from secondlook.engine.cli import command_line
from secondlook.engine.encoders.openvino import load_openvino, precisions

PRECISIONS = precisions(load_openvino().Core())
ENCODERS = [
    *("torch float32", "torch bfloat16", "engine float32", "engine bfloat16", "onnx float32"),
    *(f"{one} {precision}" for precision in PRECISIONS for one in ("openvino", "openvino-bare")),
]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    run = VisionRun(graph=[Graph.float32], repeats=3)
    return benches.reported(run, partial(bench_vision, tiny_preset()))


def test_every_encoder_is_measured_at_every_batch(report: dict[str, Any]) -> None:
    rows = {(row["encoder"], row["batch"]): row for row in report["rows"]}
    assert list(rows) == [(encoder, batch) for batch in (1, 2) for encoder in ENCODERS]
    for batch in (1, 2):
        baseline = rows["torch float32", batch]
        assert (baseline["speedup"], baseline["relative_error"]) == (1, 0)
        for encoder in ENCODERS:
            row = rows[encoder, batch]
            assert row["count"] == 3
            assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["max_ms"]
            assert row["speedup"] == pytest.approx(baseline["p50_ms"] / row["p50_ms"])
        assert rows["onnx float32", batch]["relative_error"] <= 1e-5
        assert rows["openvino float32", batch]["relative_error"] <= 1e-5
        assert rows["engine bfloat16", batch]["relative_error"] > 1e-5
        assert rows["onnx float32", batch]["passes"]
    assert report["speedup_onnx_float32"] == min(rows["onnx float32", batch]["speedup"] for batch in (1, 2))
    for precision in PRECISIONS:
        assert report[f"openvino_{precision}_beside_bare"] == max(
            rows[f"openvino {precision}", batch]["p50_ms"]
            / rows[f"openvino-bare {precision}", batch]["p50_ms"]
            for batch in (1, 2)
        )
    assert report["speedup_openvino_float32"] == min(
        rows["openvino float32", batch]["speedup"] for batch in (1, 2)
    )
    assert (report["preset"], report["threads"]) == ("small", torch.get_num_threads())
    assert report["environment"]["onnxruntime"]
    assert report["environment"]["openvino"]


def test_the_command_ends_with_one_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benches, "configure_logging", lambda _verbose: None)
    monkeypatch.setattr(subject, "preset", lambda _name: tiny_preset())
    done = CliRunner().invoke(command_line(), ["bench", "vision", "--repeats", "1", "--graph", "float32"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["speedup_onnx_float32"] > 0


@pytest.mark.parametrize("option", [("--graph", "bfloat16"), ("--graph", "fp8"), ("--preset", "demo")])
def test_what_cannot_be_measured_is_wrong_usage(option: tuple[str, str]) -> None:
    done = CliRunner().invoke(command_line(), ["bench", "vision", *option])
    assert done.exit_code == 2
    assert option[1] in done.output
