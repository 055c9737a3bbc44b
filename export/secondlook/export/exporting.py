"""From a loaded model to an exported folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, get_args

import torch

from secondlook.engine.encoders.manifest import (
    GRAPH_FILE,
    WEIGHTS_FILE,
    EncoderManifest,
    GraphDType,
    Parity,
    TensorType,
    file_digest,
)
from secondlook.engine.encoders.onnx_runtime import OnnxVisionEncoder, open_session
from secondlook.engine.errors import EncoderError
from secondlook.engine.models.llava import LlavaAdapter
from secondlook.export.answers import GatePicture
from secondlook.export.checking import check_graph
from secondlook.export.errors import ExportError, Failure, GateError
from secondlook.export.folder import whole_folder
from secondlook.export.gate import GateSettings, pass_gate
from secondlook.export.graph import INPUT_NAME, OUTPUT_NAME, EncoderGraph
from secondlook.export.quantising import quantise_graph
from secondlook.export.widening import widen_graph
from secondlook.export.writing import OPSETS, write_graph

__all__ = ["ExportSettings", "WrittenGraph", "export_encoder", "write_encoder"]

_TOOLS: Final = ("secondlook", "torch", "transformers", "onnx", "onnxscript", "onnxruntime")
_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
"""In which a model can be loaded."""


@dataclass(frozen=True)
class ExportSettings:
    """How an encoder is exported.

    Attributes:
        dtype: that the graph computes in.
        opset: of its operators.
        overwrite: replace an exported encoder.
        gate: how much is compared before the manifest is written.
    """

    dtype: GraphDType = "float32"
    opset: int = OPSETS.start
    overwrite: bool = False
    gate: GateSettings = field(default_factory=GateSettings)

    def __post_init__(self) -> None:
        if self.dtype not in get_args(GraphDType):
            raise ExportError(f"dtype must be one of {', '.join(get_args(GraphDType))}, not {self.dtype!r}")
        if self.opset not in OPSETS:
            raise ExportError(f"opset must be from {OPSETS.start} to {OPSETS.stop - 1}, not {self.opset}")


@dataclass(frozen=True)
class WrittenGraph:
    """A graph's files in a folder, not yet compared with anything.

    Attributes:
        taken, given: the input and the output.
    """

    folder: Path
    dtype: GraphDType
    opset: int
    taken: TensorType
    given: TensorType

    def check(self) -> list[Failure]:
        """What is wrong with the graph itself."""
        return check_graph(self.folder / GRAPH_FILE, self.opset, self.taken, self.given)

    def open(self) -> OnnxVisionEncoder:
        """The graph in ONNX Runtime on the CPU; a bfloat16 one as `secondlook.export.widening` says.

        Raises:
            EncoderError: ONNX Runtime cannot load it.
        """
        cpu, graph_file = torch.device("cpu"), self.folder / GRAPH_FILE
        if self.dtype != "bfloat16":
            return OnnxVisionEncoder(open_session(graph_file, cpu), self.taken, self.given, cpu)
        widened = self.folder / "widened.onnx"
        widen_graph(graph_file, widened)
        try:
            return OnnxVisionEncoder(open_session(widened, cpu), self.taken, self.given, cpu)
        finally:
            widened.unlink()


def write_encoder(model: LlavaAdapter, dtype: GraphDType, opset: int, folder: Path) -> WrittenGraph:
    """Write a model's encoder into a folder, as graph and weights.

    Raises:
        ExportError: torch cannot export it.
        OSError: the files cannot be written.
    """
    computed = torch.float32 if dtype == "int8" else getattr(torch, dtype)
    graph = EncoderGraph(model.module, computed)
    if dtype == "int8":
        with TemporaryDirectory(dir=folder) as inner:
            write_graph(graph, model.image_size, computed, opset, Path(inner))
            quantise_graph(Path(inner) / GRAPH_FILE, folder / GRAPH_FILE)
    else:
        write_graph(graph, model.image_size, computed, opset, folder)
    side, name = model.image_size, str(computed).removeprefix("torch.")
    tokens, width = model.grid[0] * model.grid[1], model.decoder_config.hidden_size
    return WrittenGraph(
        folder,
        dtype,
        opset,
        TensorType(INPUT_NAME, ("batch", 3, side, side), name),
        TensorType(OUTPUT_NAME, ("batch", tokens, width), name),
    )


def export_encoder(
    model: LlavaAdapter,
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


def _parity(
    model: LlavaAdapter, written: WrittenGraph, settings: ExportSettings, asked: Iterator[GatePicture]
) -> Parity:
    what = f"the {written.dtype} encoder of {model.name!r}"
    failures = written.check()
    try:
        encoder = written.open()
    except EncoderError as error:
        raise GateError(what, [*failures, Failure("graph", str(error))]) from error
    candidate = model.with_encoder(encoder)
    return pass_gate(what, model, candidate, written.dtype, asked, settings.gate, failures)


def _manifest(model: LlavaAdapter, written: WrittenGraph, parity: Parity) -> EncoderManifest:
    dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES}
    return EncoderManifest(
        model=model.name,
        weights={name: model.encoder_digest(dtype) for name, dtype in dtypes.items()},
        feature_layer=model.feature_layer,
        dtype=written.dtype,
        opset=written.opset,
        input=written.taken,
        output=written.given,
        tokens=model.grid[0] * model.grid[1],
        width=model.decoder_config.hidden_size,
        preprocessing=model.preprocessing,
        tools=_tools(),
        parity=parity,
        files={name: file_digest(written.folder / name) for name in (GRAPH_FILE, WEIGHTS_FILE)},
    )


def _tools() -> dict[str, str]:
    found = {}
    for name in _TOOLS:
        with suppress(PackageNotFoundError):  # secondlook itself, run from a source tree
            found[name] = version(name)
    return found
