"""From a model to a folder: what the manifest says, and that nothing else is ever left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from engine.checkpoints import GRID, IMAGE_SIZE
from export.support import CPU, GRAPH_FILE, QUICK, WEIGHTS_FILE, Exported, asked, export_small
from secondlook.benchmarks.latency.subject import preset, random_model, served
from secondlook.engine.encoders import EncoderChoice
from secondlook.engine.encoders.manifest import (
    MANIFEST_FILE,
    GraphDType,
    file_digest,
    read_manifest,
)
from secondlook.engine.encoders.onnx_runtime import open_onnx
from secondlook.engine.errors import InvalidEncoderError
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.pictures import Normalisation
from secondlook.engine.models.settings import Localisation
from secondlook.export import exporting
from secondlook.export.errors import ExportError, GateError, OutputError
from secondlook.export.exporting import ExportSettings, export_encoder, verify_encoder
from secondlook.export.gate import GateSettings
from secondlook.export.inspecting import inspect_encoder

SECONDS = 300


def test_the_folder_holds_graph_weights_and_manifest(exported: Exported) -> None:
    assert {file.name for file in exported.folder.iterdir()} == {GRAPH_FILE, WEIGHTS_FILE, MANIFEST_FILE}
    assert [path.name for path in exported.folder.parent.iterdir() if path.name.startswith(".")] == []


def test_the_manifest_says_what_it_is(exported: Exported) -> None:
    manifest, model = read_manifest(exported.folder), exported.model
    assert manifest == exported.manifest
    assert (manifest.model, manifest.dtype, manifest.opset) == (model.name, "float32", 18)
    (graph,) = manifest.graphs.values()
    assert str(graph.inputs[0]) == f"pixel_values [batch, 3, {IMAGE_SIZE}, {IMAGE_SIZE}]"
    assert str(graph.outputs[0]) == f"features [batch, {GRID**2}, 64]"
    assert manifest.views == (model.global_view, model.local_view)
    assert manifest.normalisation == Normalisation(
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
        0.00392156862745098,
    )
    assert manifest.files == {
        name: file_digest(exported.folder / name) for name in (GRAPH_FILE, WEIGHTS_FILE)
    }
    assert manifest.tools["torch"] == torch.__version__
    assert manifest.tools["onnx"] == onnx.__version__
    assert manifest.parity.questions == QUICK.questions


def test_the_weights_digests_are_those_of_each_dtype_it_may_be_loaded_in(exported: Exported) -> None:
    for name in ("float32", "float16", "bfloat16"):
        loaded = load_model(exported.model.name, dtype=name, device="cpu")  # type: ignore[arg-type]
        assert exported.manifest.weights[name] == loaded.encoder_digest()
        exported.manifest.check_fits(exported.folder, loaded)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_passes(exported: Exported, tmp_path: Path, dtype: GraphDType) -> None:
    parity = export_small(exported.model, tmp_path / "encoder", dtype).manifest.parity
    assert 1e-5 < parity.relative_error <= parity.tolerance


def test_no_gate_no_folder(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = exporting.write_encoder

    def other(model: Any, *arguments: Any) -> Any:
        bias = model.module.model.multi_modal_projector.linear_1.bias
        bias.add_(0.5)
        try:
            return right(model, *arguments)
        finally:
            bias.sub_(0.5)

    monkeypatch.setattr(exporting, "write_encoder", other)
    with pytest.raises(GateError, match="does not pass the gate: features: the relative error is"):
        export_small(exported.model, tmp_path / "encoder")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_no_runtime_loads_is_told_with_what_the_checker_says(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = exporting.write_encoder

    def broken(model: Any, dtype: Any, opset: int, folder: Path) -> Any:
        written = right(model, dtype, opset, folder)
        graph = onnx.load(folder / GRAPH_FILE, load_external_data=False)
        graph.graph.node[3].op_type = "Attention"  # opset 18 has none
        onnx.save(graph, folder / GRAPH_FILE)
        return written

    monkeypatch.setattr(exporting, "write_encoder", broken)
    with pytest.raises(GateError, match="Attention") as caught:
        export_small(exported.model, tmp_path / "encoder")
    assert [failure.check for failure in caught.value.failures] == ["graph", "graph"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_refused_before_the_work(exported: Exported) -> None:
    with pytest.raises(OutputError, match="is there already"):
        export_encoder(exported.model, exported.folder, ExportSettings(), iter(()))


def test_only_float32_weights_are_exported(exported: Exported, tmp_path: Path) -> None:
    narrow = load_model(exported.model.name, dtype="bfloat16", device="cpu")
    with pytest.raises(ExportError, match="from float32 on the CPU, not torch"):
        export_small(narrow, tmp_path / "encoder")


@pytest.mark.slow  # that a killed one leaves nothing, test_folder shows as well
def test_a_killed_export_leaves_no_half_folder_and_had_written_the_same_bytes(
    exported: Exported, tmp_path: Path
) -> None:
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
from pathlib import Path
from secondlook.engine.models.checkpoint import load_model
from secondlook.export import ExportSettings, export_encoder

def asked():
    print("written", flush=True)
    sys.stdin.read()
    yield

model = load_model({exported.model.name!r}, dtype="float32", device="cpu")
export_encoder(model, Path({str(tmp_path / "encoder")!r}), ExportSettings(), asked())
"""
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(SECONDS) == -signal.SIGKILL
    assert not (tmp_path / "encoder").exists()
    (partial,) = tmp_path.iterdir()
    assert {file.name: file_digest(file) for file in partial.iterdir()} == exported.manifest.files
    manifest = export_small(exported.model, tmp_path / "encoder").manifest
    assert manifest.files == exported.manifest.files
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


@pytest.mark.parametrize("vision", ["onnx", "torch"])
def test_an_export_is_verified_again(exported: Exported, vision: Any) -> None:
    choice = EncoderChoice(vision, None if vision == "torch" else exported.folder)
    parity = verify_encoder(exported.model, choice, exported.folder, QUICK, asked())
    assert (parity.questions, parity.same_regions) == (6, 6)


@pytest.mark.parametrize("vision", ["onnx", "torch"])
def test_a_damaged_export_is_not_verified(exported: Exported, tmp_path: Path, vision: Any) -> None:
    folder = Path(shutil.copytree(exported.folder, tmp_path / "encoder"))
    os.truncate(folder / GRAPH_FILE, 1000)
    choice = EncoderChoice(vision, None if vision == "torch" else folder)
    with pytest.raises(InvalidEncoderError, match=f"{GRAPH_FILE} has SHA-256"):
        verify_encoder(exported.model, choice, folder, QUICK, asked())


def test_a_manifest_without_a_files_digest_is_none(exported: Exported, tmp_path: Path) -> None:
    content = json.loads((exported.folder / MANIFEST_FILE).read_text())
    del content["files"][GRAPH_FILE]
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(content))
    with pytest.raises(
        InvalidEncoderError, match=f"no manifest of this version: .*no digest of {GRAPH_FILE}"
    ):
        read_manifest(tmp_path)


def test_inspect_tells_precision_and_what_became_of_attention(exported: Exported) -> None:
    told = inspect_encoder(exported.folder)
    assert f"model      {exported.model.name}" in told
    assert "5 LayerNormalization" in told
    assert "attention: 2 times product, softmax, product" in told
    assert "ONNX Runtime on this CPU: " in told


@pytest.mark.slow
def test_clip_large_at_336_pixels_passes_the_gate(tmp_path: Path) -> None:
    small = preset("small")
    small.shapes.localisation = Localisation({0: None}, crop_size=336)
    small.config.text_config.num_hidden_layers = 1  # the tower and the projector are what is looked at
    model = served(small, random_model(small.config, torch.float32, CPU))
    gate = GateSettings(pictures=1, questions=1)
    manifest = export_encoder(model, tmp_path / "encoder", ExportSettings(gate=gate), asked())
    assert manifest.graphs["encoder"].outputs[0].shape == ("batch", 576, 1024)
    assert manifest.parity.relative_error <= 1e-5
    kinds = [
        node.op_type
        for node in onnx.load(tmp_path / "encoder" / GRAPH_FILE, load_external_data=False).graph.node
    ]
    assert kinds.count("Softmax") == 23
    (encoder,) = open_onnx(tmp_path / "encoder", manifest, CPU)
    assert encoder(torch.zeros(1, 3, 336, 336)).shape == (1, 576, 1024)
