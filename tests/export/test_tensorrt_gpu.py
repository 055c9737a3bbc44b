"""Plans on a GPU, with the real TensorRT: the embedded model, exported, built and compared by commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from secondlook.engine.encoders.tensorrt import open_plan
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.checkpoint import load_model
from secondlook.export.inspecting import attention_of, inspect_plan

pytestmark = pytest.mark.needs_tensorrt

TOLERANCES = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 2e-2}


def secondlook(*arguments: str, cache: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SECONDLOOK_CACHE": str(cache)}
    command = [sys.executable, "-c", "from secondlook.engine.cli import main; main()", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def side_of(model: VisionLanguageModel) -> tuple[Any, ...]:
    return model.vision_graphs()["encoder"].interface.inputs[0].shape[2:]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_plan_passes_the_gate_and_gives_torchs_features(
    tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, graph, plan = tmp_path / "cache", tmp_path / "encoder", tmp_path / "plan"
    monkeypatch.setenv("SECONDLOOK_CACHE", str(cache))
    secondlook("export", "--model", "demo", "--dtype", dtype, "--output", str(graph), cache=cache)
    secondlook("build", str(graph), "--output", str(plan), "--batch", "1:2:4", "--detailed", cache=cache)
    secondlook("verify", str(plan), "--runtime", "tensorrt", "--trust-plan", cache=cache)
    device = torch.device("cuda")
    model = load_model("demo", dtype="float32", device="cuda")
    reference, (encoder,) = model.vision_module(), open_plan(plan, device, trusted=True).encoders
    for count in (1, 2, 3, 9):
        pixels = torch.randn(count, 3, *side_of(model), device=device)
        expected, found = reference(pixels), encoder(pixels)
        assert found.isfinite().all()
        assert (found - expected).norm() / expected.norm() <= TOLERANCES[dtype]
    layers = inspect_plan(plan, device, trusted=True)
    assert layers
    assert attention_of(layers) != "unknown"


def test_calls_follow_the_current_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDLOOK_CACHE", str(tmp_path / "cache"))
    graph = tmp_path / "encoder"
    secondlook(
        "export", "--model", "demo", "--dtype", "float32", "--output", str(graph), cache=tmp_path / "cache"
    )
    secondlook("build", str(graph), cache=tmp_path / "cache")
    (encoder,) = open_plan(graph, torch.device("cuda")).encoders
    pixels = torch.randn(3, 3, *side_of(load_model("demo")), device="cuda")
    expected = encoder(pixels)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # untyped in torch
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # a picture that comes late is still waited for, by the stream
        found = encoder(pixels.clone())
    stream.synchronize()
    assert found.equal(expected)
