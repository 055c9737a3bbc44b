"""From a loaded model to an exported folder; and that through the gate again, on any runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import torch
from pydantic import Field
from torch import Tensor, nn

from secondlook.edge.validation import validated
from secondlook.edge.versions import installed_version
from secondlook.engine.encoders import EncoderChoice, Vision, with_vision
from secondlook.engine.encoders.manifest import (
    EncoderManifest,
    GraphDType,
    Parity,
    file_digest,
    graph_file,
    read_manifest,
    weights_file,
)
from secondlook.engine.encoders.plan_manifest import PLAN_MANIFEST_FILE, read_plan_manifest
from secondlook.engine.errors import EncoderError, InvalidEncoderError
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.vision import VisionEncoder
from secondlook.export.errors import ExportError, Failure, GateError
from secondlook.export.folder import whole_folder
from secondlook.export.gate import GatePicture, GateSettings, pass_gate
from secondlook.export.graph import OPSETS, WrittenEncoder, check_graphs, dtype_name, narrowed, write_encoder

__all__ = ["ExportSettings", "export_encoder", "exported_manifest", "verify_encoder"]

_TOOLS: Final = ("secondlook", "torch", "transformers", "onnx", "onnxscript", "onnxruntime")
_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
"""In which a model can be loaded."""


@validated(frozen=True)
class ExportSettings:
    """How an encoder is exported.

    Attributes:
        dtype: that the graph computes in.
        opset: of its operators.
        overwrite: replace an exported encoder.
        gate: how much is compared before the manifest is written.
    """

    dtype: GraphDType = "float32"
    opset: Annotated[int, Field(ge=OPSETS.start, le=OPSETS.stop - 1)] = OPSETS.start
    overwrite: bool = False
    gate: GateSettings = field(default_factory=GateSettings)


def export_encoder(
    model: VisionLanguageModel,
    output: Path,
    settings: ExportSettings,
    asked: Iterator[GatePicture],
    tell: Callable[[str], None] = lambda _stage: None,
) -> EncoderManifest:
    """Export a model's vision encoder and projector into a folder, if it passes the gate.

    Args:
        model: in float32, on the CPU.
        asked: pictures and questions for the gate, as many as it needs.
        tell: is told what is going on.

    Raises:
        ExportError: torch cannot export it.
        GateError: it is not what torch computes; nothing is left behind.
        OutputError: the folder is there already, or cannot be written; nothing is left behind.
    """
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise ExportError(f"a model is exported from float32 on the CPU, not {model.dtype} on {model.device}")
    with whole_folder(output, overwrite=settings.overwrite) as folder:
        tell("writing the graph")
        written = write_encoder(model, settings.dtype, settings.opset, folder)
        tell("comparing it with torch")
        manifest = _manifest(model, written, _parity(model, written, settings, asked))
        manifest.write(folder)
    return manifest


def exported_manifest(folder: Path, vision: Vision) -> EncoderManifest:
    """The manifest of an exported folder, or of the export that a TensorRT plan was built from.

    Raises:
        InvalidEncoderError: the folder is neither, or is a plan and the runtime is another.
    """
    if (folder / PLAN_MANIFEST_FILE).is_file():
        if vision != "tensorrt":
            raise InvalidEncoderError(f"{folder} is a TensorRT plan; add --runtime tensorrt")
        return read_plan_manifest(folder).encoder
    return read_manifest(folder)


def verify_encoder(
    model: VisionLanguageModel,
    choice: EncoderChoice,
    folder: Path,
    settings: GateSettings,
    asked: Iterator[GatePicture],
) -> Parity:
    """Pass an exported encoder through the gate, on the model's device.

    Args:
        model: in float32, with its own encoder.
        choice: of the runtime. "torch" runs the model's own module in the manifest's precision: what torch
            makes of the same weights.
        folder: the encoder's.
        asked: as `export_encoder` has it.

    Raises:
        GateError: everything that failed.
        EncoderError: the encoder does not fit the model, is not as it was exported, or lacks its runtime.
        ExportError: int8 in torch.
    """
    manifest = exported_manifest(folder, choice.vision)
    dtype, failures = manifest.dtype, list[Failure]()
    if dtype == "float32" and choice.precision == "bfloat16":
        dtype = "bfloat16"
    if choice.vision == "torch":
        manifest.check_files(folder)
        manifest.check_fits(folder, model)
        candidate = model.with_encoder(*_in_torch(model, manifest.dtype))
    else:
        candidate = with_vision(model, replace(choice, folder=folder))
        if choice.vision in ("onnx", "openvino"):
            failures = check_graphs(folder, manifest.opset, manifest.graphs)
    what = f"the {manifest.dtype} encoder in {folder}, run by {choice.vision} in {dtype},"
    return pass_gate(what, model, candidate, dtype, asked, settings, failures)


def _in_torch(model: VisionLanguageModel, name: GraphDType) -> Iterator[VisionEncoder]:
    if name == "int8":
        raise ExportError("torch does not run an int8 graph; verify it with --runtime onnx")
    dtype: torch.dtype = getattr(torch, name)
    for graph in model.vision_graphs().values():
        yield partial(_run, narrowed(graph.module, dtype), dtype)


@torch.inference_mode()
def _run(module: nn.Module, dtype: torch.dtype, *given: Tensor) -> Tensor | tuple[Tensor, ...]:
    made = module(*(one.to(dtype) if one.is_floating_point() else one for one in given))
    if isinstance(made, Tensor):
        return made.to(given[0].dtype)
    return tuple(one.to(given[0].dtype) for one in made)


def _parity(
    model: VisionLanguageModel,
    written: WrittenEncoder,
    settings: ExportSettings,
    asked: Iterator[GatePicture],
) -> Parity:
    what = f"the {written.dtype} encoder of {model.name!r}"
    failures = written.check()
    try:
        candidate = model.with_encoder(*written.open())
    except EncoderError as error:
        raise GateError(what, [*failures, Failure("graph", str(error))]) from error
    return pass_gate(what, model, candidate, written.dtype, asked, settings.gate, failures)


def _manifest(model: VisionLanguageModel, written: WrittenEncoder, parity: Parity) -> EncoderManifest:
    files = [file(name) for name in written.graphs for file in (graph_file, weights_file)]
    return EncoderManifest(
        model=model.name,
        weights={dtype_name(dtype): model.encoder_digest(dtype) for dtype in _DTYPES},
        dtype=written.dtype,
        opset=written.opset,
        graphs=written.graphs,
        normalisation=model.normalisation,
        views=(model.global_view, model.local_view),
        tools={name: found for name in _TOOLS if (found := installed_version(name))},
        parity=parity,
        files={name: file_digest(written.folder / name) for name in files},
        revision=model.revision,
    )
