"""What TensorRT made of a graph: each layer's precision, and whether attention became one kernel.

This rests on what TensorRT's engine inspector writes, which is documented as JSON but not in all its words.
Taken from published listings, and untested on hardware: a layer is an object with Name, LayerType,
TacticName, Metadata (the ONNX nodes that it is made of) and Outputs; an output has its type in "DataType"
since TensorRT 11, and before that in "Format/Datatype"; a kernel of fused attention has `mha` as a word of
its name or tactic, such as `_gemm_mha_v2_myl0_7`. Of an engine that was not built with details, a layer is
its name alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch

from secondlook.engine.devices import on_device
from secondlook.engine.encoders.engine_manifest import EngineManifest, read_engine_manifest
from secondlook.engine.encoders.engine_store import check_runs_here, check_trusted, find_engine
from secondlook.engine.encoders.tensorrt import current_stream, deserialize
from secondlook.engine.encoders.tensorrt_api import this_machine
from secondlook.engine.errors import EncoderError
from secondlook.export.describing import manifest_lines
from secondlook.export.tensorrt.builder_api import InspectableEngine, TensorRtBuilder, load_builder

__all__ = [
    "Attention",
    "Layer",
    "attention_of",
    "inspect_engine",
    "layers_of",
    "layers_text",
    "manifest_text",
]

Attention = Literal["fused", "partly fused", "not fused", "unknown"]

_FUSED: Final = re.compile(r"(?:^|[^a-z])(?:f?mha)(?:[^a-z]|$)", re.IGNORECASE)
_SOFTMAX: Final = re.compile("softmax", re.IGNORECASE)


@dataclass(frozen=True)
class Layer:
    """A layer of an engine.

    Attributes:
        kind: TensorRT's type of layer; empty when the engine was built without details.
        precision: of the outputs, in TensorRT's words, such as "Half"; empty likewise.
        tactic: the kernel, if it is named.
        origin: the ONNX nodes that it was made of, if they are named.
    """

    name: str
    kind: str = ""
    precision: str = ""
    tactic: str = ""
    origin: str = ""

    @property
    def is_fused_attention(self) -> bool:
        return _FUSED.search(f"{self.name} {self.tactic}") is not None


def layers_of(information: str) -> tuple[Layer, ...]:
    """The layers in an engine inspector's JSON, of TensorRT 10 or 11.

    Raises:
        EncoderError: it is no such JSON.
    """
    try:
        layers = json.loads(information)["Layers"]
        return tuple(Layer(one) if isinstance(one, str) else _layer(one) for one in layers)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EncoderError(
            f"the engine inspector's answer is not understood ({error}): {information[:80]!r}"
        ) from error


def attention_of(layers: Sequence[Layer]) -> Attention:
    """Whether attention became fused kernels.

    "partly fused" when there are such kernels, and softmax in other layers too; "unknown" of an engine
    without details that names none.
    """
    fused = any(layer.is_fused_attention for layer in layers)
    loose = any(
        _SOFTMAX.search(f"{layer.name} {layer.origin}") for layer in layers if not layer.is_fused_attention
    )
    if fused:
        return "partly fused" if loose else "fused"
    return "not fused" if any(layer.kind for layer in layers) else "unknown"


def inspect_engine(folder: Path, device: torch.device, *, trusted: bool = False) -> tuple[Layer, ...]:
    """The layers of an engine, at the best batch of its first profile. Opens, so executes, the engine.

    Raises:
        RuntimeMissingError: the full TensorRT is not installed; the lean one has no inspector.
        SecondLookError: see `secondlook.engine.encoders.tensorrt.open_engine`.
    """
    trt = load_builder()
    machine = this_machine(device)
    found = find_engine(folder, trt.__version__, machine)
    manifest = read_engine_manifest(found)
    check_runs_here(found, manifest, trt.__version__, machine)
    check_trusted(found, trusted)
    with on_device(device):
        loaded = deserialize(trt, manifest, manifest.read_plan(found))
        engine: Any = loaded.engine
        return layers_of(_information(trt, engine, manifest, current_stream(device)))


def _information(
    trt: TensorRtBuilder, engine: InspectableEngine, manifest: EngineManifest, stream: int
) -> str:
    inspector, context = engine.create_engine_inspector(), engine.create_execution_context()
    if context is None:
        raise EncoderError("TensorRT's engine cannot make a context, perhaps for want of the GPU's memory")
    # with shapes that are known, the inspector tells types that it otherwise leaves open
    encoder, batch = manifest.encoder, manifest.profiles[0].optimum
    context.set_optimization_profile_async(0, stream)
    context.set_input_shape(encoder.input.name, (batch, 3, encoder.side, encoder.side))
    inspector.execution_context = context
    return inspector.get_engine_information(trt.LayerInformationFormat.JSON)


def manifest_text(folder: Path) -> str:
    """An engine's manifest for people; needs neither a GPU nor TensorRT, and executes nothing."""
    manifest = read_engine_manifest(folder)
    options, machine = manifest.options, manifest.machine
    later = " or later" if options.version_compatible else ""
    details = "kept" if options.detailed else "not kept; build with --detailed for the layers' precision"
    rows = {
        "batches": ", ".join(map(str, manifest.profiles)),
        "tensorrt": f"{manifest.tensorrt}{later}",
        "gpu": f"{machine}, driver {machine.driver}",
        "other gpus": options.hardware_compatibility,
        "details": details,
    }
    return "\n".join(
        [
            *manifest_lines(manifest.encoder),
            *(f"{name:10} {value}" for name, value in rows.items()),
            *(f"{'file':10} {name} SHA-256 {digest}" for name, digest in manifest.files.items()),
        ]
    )


def layers_text(layers: Sequence[Layer]) -> str:
    """How many layers have which precision, and what became of attention."""
    counted = Counter(layer.precision or "not told" for layer in layers)
    fused = sum(layer.is_fused_attention for layer in layers)
    precisions = ", ".join(f"{count} {precision}" for precision, count in counted.most_common())
    attention = f"{attention_of(layers)} ({fused} fused kernels)"
    return f"{'layers':10} {len(layers)}: {precisions}\n{'attention':10} {attention}"


def _layer(found: Mapping[str, Any]) -> Layer:
    return Layer(
        name=found["Name"],
        kind=found.get("LayerType", ""),
        precision=" ".join(dict.fromkeys(_precisions(found.get("Outputs", ())))),
        tactic=str(found.get("TacticName") or ""),
        origin=str(found.get("Metadata") or ""),
    )


def _precisions(outputs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for output in outputs:
        told = output.get("DataType") or output.get("Format/Datatype") or ""
        # TensorRT 10 may write the layout too: "Half(64,1:8,...)", "Row major linear FP16 format (kLINEAR)"
        yield re.split(r"[(,]", str(told))[0].strip()
