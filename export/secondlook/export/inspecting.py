"""What an exported folder holds, and what ONNX Runtime makes of it here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import onnx
import torch
from onnx import GraphProto, TensorProto, shape_inference

from secondlook.engine.encoders.manifest import GRAPH_FILE, EncoderManifest, read_manifest
from secondlook.engine.encoders.onnx_runtime import open_session
from secondlook.export.describing import manifest_lines

__all__ = ["inspect_encoder"]

_FUSED: Final = ("Attention", "MultiHeadAttention", "PackedAttention", "PackedMultiHeadAttention")
"""ONNX Runtime's own operators that are attention as a whole."""


def inspect_encoder(folder: Path) -> str:
    """The manifest, the operators by precision, and whether ONNX Runtime fuses attention on this CPU.

    Raises:
        InvalidEncoderError: the folder is no export, or not as it was exported.
        RuntimeMissingError: ONNX Runtime is not installed.
    """
    manifest = read_manifest(folder)
    manifest.check_files(folder)
    graph = shape_inference.infer_shapes(onnx.load(folder / GRAPH_FILE, load_external_data=False)).graph
    attentions = sum(node.op_type == "Softmax" for node in graph.node)
    return "\n".join(
        [
            *manifest_lines(manifest),
            "",
            "operators of the graph, by the precision of what they make:",
            *_precision_lines(graph),
            "",
            f"attention: {attentions} times product, softmax, product, in operators of the opset",
            _fusion_line(folder, manifest, attentions),
        ]
    )


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


def _fusion_line(folder: Path, manifest: EncoderManifest, attentions: int) -> str:
    if manifest.dtype == "bfloat16":
        return "ONNX Runtime on this CPU: does not run bfloat16"
    with TemporaryDirectory() as temporary:
        optimised = Path(temporary) / "optimised.onnx"
        open_session(folder / GRAPH_FILE, torch.device("cpu"), optimised=optimised)
        nodes: Any = onnx.load(optimised, load_external_data=False).graph.node
    kinds = Counter(node.op_type for node in nodes)
    fused = sum(kinds[kind] for kind in _FUSED)
    told = f"fuses {fused} of {attentions} attentions" if fused else "does not fuse attention"
    own = sorted({node.op_type for node in nodes if node.domain})
    return f"ONNX Runtime on this CPU: {told}; operators of its own: {', '.join(own) or 'none'}"
