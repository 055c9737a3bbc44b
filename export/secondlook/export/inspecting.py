"""What an exported folder holds, and what its runtime makes of it: precisions, and if attention was fused.

Of a plan this rests on what TensorRT's engine inspector writes, which is documented as JSON but not in all
its words. Taken from published listings, and untested on hardware: a layer is an object with Name, LayerType,
TacticName, Metadata (the ONNX nodes that it is made of) and Outputs; an output has its type in "DataType"
since TensorRT 11, and before that in "Format/Datatype"; a kernel of fused attention has `mha` as a word of
its name or tactic, such as `_gemm_mha_v2_myl0_7`. Of a plan that was not built with details, a layer is its
name alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import onnx
import torch
from onnx import GraphProto, TensorProto, shape_inference

from secondlook.edge.wire import Budget, Fixed, Tiles
from secondlook.engine.devices import on_device
from secondlook.engine.encoders.manifest import EncoderManifest, Parity, graph_file, read_manifest
from secondlook.engine.encoders.onnx_runtime import open_session
from secondlook.engine.encoders.plan_manifest import read_plan_manifest
from secondlook.engine.encoders.plan_store import check_runs_here, check_trusted, find_plan
from secondlook.engine.encoders.profiles import shapes_of
from secondlook.engine.encoders.tensorrt import current_stream, deserialize
from secondlook.engine.encoders.tensorrt_api import (
    InspectablePlan,
    TensorRtBuilder,
    load_builder,
    this_machine,
)
from secondlook.engine.errors import EncoderError
from secondlook.export.graph import told

__all__ = [
    "Attention",
    "Layer",
    "attention_of",
    "inspect_encoder",
    "inspect_plan",
    "layers_of",
    "layers_text",
    "parity_text",
    "plan_text",
]

_FUSED_OPERATORS: Final = (
    "Attention",
    "MultiHeadAttention",
    "PackedAttention",
    "PackedMultiHeadAttention",
)
"""ONNX Runtime's own operators that are attention as a whole."""


def inspect_encoder(folder: Path) -> str:
    """The manifest, the operators by precision, and whether ONNX Runtime fuses attention on this CPU.

    Raises:
        InvalidEncoderError: the folder is no export, or not as it was exported.
        RuntimeMissingError: ONNX Runtime is not installed.
    """
    manifest = read_manifest(folder)
    manifest.check_files(folder)
    lines = _manifest_lines(manifest)
    for name in manifest.graphs:
        file = folder / graph_file(name)
        graph = shape_inference.infer_shapes(onnx.load(file, load_external_data=False)).graph
        attentions = sum(node.op_type == "Softmax" for node in graph.node)
        lines += [
            "",
            f"operators of {file.name}, by the precision of what they make:",
            *_precision_lines(graph),
            "",
            f"attention: {attentions} times product, softmax, product, in operators of the opset",
            _fusion_line(file, manifest, attentions),
        ]
    return "\n".join(lines)


def _precision_lines(graph: GraphProto) -> list[str]:
    """One line for each type: how many of which operators make it."""
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    made: dict[str, Counter[str]] = {}
    for node in graph.node:
        name = TensorProto.DataType.Name(types.get(node.output[0], TensorProto.UNDEFINED)).lower()
        made.setdefault(name, Counter())[node.op_type] += 1
    return [
        f"  {name:10} {', '.join(f'{count} {kind}' for kind, count in sorted(counts.items()))}"
        for name, counts in sorted(made.items())
    ]


def _fusion_line(file: Path, manifest: EncoderManifest, attentions: int) -> str:
    if manifest.dtype == "bfloat16":
        return "ONNX Runtime on this CPU: does not run bfloat16"
    with TemporaryDirectory() as temporary:
        optimised = Path(temporary) / "optimised.onnx"
        open_session(file, torch.device("cpu"), optimised=optimised)
        nodes: Any = onnx.load(optimised, load_external_data=False).graph.node
    kinds = Counter(node.op_type for node in nodes)
    fused = sum(kinds[kind] for kind in _FUSED_OPERATORS)
    told = f"fuses {fused} of {attentions} attentions" if fused else "does not fuse attention"
    own = sorted({node.op_type for node in nodes if node.domain})
    return f"ONNX Runtime on this CPU: {told}; operators of its own: {', '.join(own) or 'none'}"


def _manifest_lines(manifest: EncoderManifest) -> list[str]:
    """What was exported, for people; a word for each line, ten characters wide, and what it is."""
    picture = manifest.normalisation
    weights = ", ".join(f"{digest} in {dtype}" for dtype, digest in manifest.weights.items())
    three = ["/".join(f"{value:.4g}" for value in values) for values in (picture.mean, picture.std)]
    interfaces = [
        f"{name[:10]:10} {told(interface.inputs)} -> {told(interface.outputs)}"
        for name, interface in manifest.graphs.items()
    ]
    return [
        f"model      {manifest.model}",
        f"weights    {weights}",
        f"graph      {manifest.dtype}, opset {manifest.opset}",
        *interfaces,
        f"pictures   {_sizes(manifest)}, mean {three[0]}, std {three[1]}, scale {picture.scale:.6g}",
        f"parity     {parity_text(manifest.parity)}",
        f"made by    {', '.join(f'{name} {version}' for name, version in manifest.tools.items())}",
        *(f"file       {name} SHA-256 {digest}" for name, digest in manifest.files.items()),
    ]


def _sizes(manifest: EncoderManifest) -> str:
    """The pictures' sizes, where the views allow one, or how many pixels they have."""
    return ", ".join(map(_size, dict.fromkeys(view.size for view in manifest.views)))


def _size(rule: Fixed | Budget | Tiles) -> str:
    if isinstance(rule, Fixed):
        return f"{rule.width}x{rule.height}"
    if isinstance(rule, Tiles):
        return "in tiles of " + " or ".join(f"{width}x{height}" for width, height in rule.sheets)
    return f"{rule.least_pixels} to {rule.most_pixels} pixels in cells of {rule.multiple}x{rule.multiple}"


def parity_text(parity: Parity) -> str:
    """What the gate measured, for people."""
    return (
        f"relative error {parity.relative_error:.2e} on {parity.pictures} pictures (at most "
        f"{parity.tolerance:.0e}); {parity.questions} questions, {parity.same_answers} of {parity.answers} "
        f"answers the same and {parity.within_rounding} within rounding, their uncertainty to "
        f"{parity.entropy_difference:.1e} nats; {parity.same_regions} of {parity.regions} regions the same"
    )


Attention = Literal["fused", "partly fused", "not fused", "unknown"]

_FUSED: Final = re.compile(r"(?:^|[^a-z])(?:f?mha)(?:[^a-z]|$)", re.IGNORECASE)
_SOFTMAX: Final = re.compile("softmax", re.IGNORECASE)


@dataclass(frozen=True)
class Layer:
    """A layer of a plan.

    Attributes:
        kind: TensorRT's type of layer; empty when the plan was built without details.
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

    "partly fused" when there are such kernels, and softmax in other layers too; "unknown" of a plan
    without details that names none.
    """
    fused = any(layer.is_fused_attention for layer in layers)
    loose = any(
        _SOFTMAX.search(f"{layer.name} {layer.origin}") for layer in layers if not layer.is_fused_attention
    )
    if fused:
        return "partly fused" if loose else "fused"
    return "not fused" if any(layer.kind for layer in layers) else "unknown"


def inspect_plan(folder: Path, device: torch.device, *, trusted: bool = False) -> tuple[Layer, ...]:
    """The layers of all plans of a folder, at the optimum of their first profile. Opens, so executes, them.

    Raises:
        RuntimeMissingError: the full TensorRT is not installed; the lean one has no inspector.
        SecondLookError: see `secondlook.engine.encoders.tensorrt.open_plan`.
    """
    trt = load_builder()
    machine = this_machine(device)
    found = find_plan(folder, trt.__version__, machine)
    manifest = read_plan_manifest(found)
    check_runs_here(found, manifest, trt.__version__, machine)
    check_trusted(found, trusted)
    with on_device(device):
        layers = list[Layer]()
        for name, interface in manifest.encoder.graphs.items():
            loaded = deserialize(trt, manifest, manifest.read_plan(found, name))
            plan: Any = loaded.plan  # of the full TensorRT
            shapes = shapes_of(interface, manifest.profiles[0])
            layers += layers_of(_information(trt, plan, shapes, current_stream(device)))
        return tuple(layers)


def _information(
    trt: TensorRtBuilder,
    plan: InspectablePlan,
    shapes: Mapping[str, tuple[tuple[int, ...], ...]],
    stream: int,
) -> str:
    inspector, context = plan.create_engine_inspector(), plan.create_execution_context()
    if context is None:
        raise EncoderError("TensorRT's plan cannot make a context, perhaps for want of the GPU's memory")
    # with shapes that are known, the inspector tells types that it otherwise leaves open
    context.set_optimization_profile_async(0, stream)
    for name, (_, optimum, _) in shapes.items():
        context.set_input_shape(name, optimum)
    inspector.execution_context = context
    return inspector.get_engine_information(trt.LayerInformationFormat.JSON)


def plan_text(folder: Path) -> str:
    """A plan's manifest for people; needs neither a GPU nor TensorRT, and executes nothing."""
    manifest = read_plan_manifest(folder)
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
            *_manifest_lines(manifest.encoder),
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
