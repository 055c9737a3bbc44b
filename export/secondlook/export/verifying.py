"""The gate once more, on an exported folder and any of the three runtimes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from secondlook.engine.encoders.choice import EncoderChoice, OpenEngine, Vision, with_vision
from secondlook.engine.encoders.engine_manifest import ENGINE_MANIFEST_FILE, read_engine_manifest
from secondlook.engine.encoders.manifest import GRAPH_FILE, EncoderManifest, Parity, read_manifest
from secondlook.engine.encoders.tensorrt import open_engine
from secondlook.engine.errors import InvalidEncoderError
from secondlook.engine.models.llava import LlavaAdapter
from secondlook.export.answers import GatePicture
from secondlook.export.checking import check_graph
from secondlook.export.errors import ExportError
from secondlook.export.gate import GateSettings, pass_gate
from secondlook.export.graph import EncoderGraph

__all__ = ["exported_manifest", "verify_encoder"]


def exported_manifest(folder: Path, vision: Vision) -> EncoderManifest:
    """The manifest of an exported folder, or of the export that a TensorRT engine was built from.

    Raises:
        InvalidEncoderError: the folder is neither, or is an engine and the runtime is another.
    """
    if (folder / ENGINE_MANIFEST_FILE).is_file():
        if vision != "tensorrt":
            raise InvalidEncoderError(f"{folder} is a TensorRT engine; add --runtime tensorrt")
        return read_engine_manifest(folder).encoder
    return read_manifest(folder)


def verify_encoder(
    model: LlavaAdapter,
    choice: EncoderChoice,
    folder: Path,
    settings: GateSettings,
    asked: Iterator[GatePicture],
    open_engine: OpenEngine = open_engine,
) -> Parity:
    """Pass an exported encoder through the gate, on the model's device.

    Args:
        model: in float32, with its own encoder.
        choice: of the runtime. "torch" runs the exported module, in the manifest's precision, on the model's
            own weights: what torch would make of the same graph.
        folder: the encoder's.
        asked: as `secondlook.export.exporting.export_encoder` has it.
        open_engine: opens a TensorRT engine.

    Raises:
        GateError: everything that failed.
        EncoderError: the encoder does not fit the model, is not as it was exported, or lacks its runtime.
        ExportError: int8 in torch.
    """
    manifest = exported_manifest(folder, choice.vision)
    failures = []
    if choice.vision == "torch":
        manifest.check_files(folder)
        manifest.check_fits(folder, model)
        candidate = model.with_encoder(_TorchGraph(model, manifest))
    else:
        candidate = with_vision(model, replace(choice, folder=folder), open_engine)
        if choice.vision == "onnx":
            failures = check_graph(folder / GRAPH_FILE, manifest.opset, manifest.input, manifest.output)
    what = f"the {manifest.dtype} encoder in {folder}, run by {choice.vision},"
    return pass_gate(what, model, candidate, manifest.dtype, asked, settings, failures)


class _TorchGraph:
    """The exported module in torch, as a vision encoder."""

    def __init__(self, model: LlavaAdapter, manifest: EncoderManifest) -> None:
        if manifest.dtype == "int8":
            raise ExportError("torch does not run an int8 graph; verify it with --runtime onnx")
        self._dtype: torch.dtype = getattr(torch, manifest.dtype)
        self._graph = EncoderGraph(model.module, self._dtype)

    @torch.inference_mode()
    def __call__(self, pixel_values: Tensor) -> Tensor:
        features: Tensor = self._graph(pixel_values.to(self._dtype))
        return features.to(pixel_values.dtype)
