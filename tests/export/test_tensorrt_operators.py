"""The list of operators that TensorRT's parser takes is what our choices of operators rest on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from export.tensorrt_operators import OPSETS, SUPPORTED, unsupported
from secondlook.engine.encoders.manifest import GRAPH_FILE
from secondlook.engine.models.checkpoint import load_model


@pytest.mark.parametrize("version", SUPPORTED)
def test_what_an_encoder_needs_is_taken(version: str) -> None:
    needed = {"Conv", "Gemm", "MatMul", "Add", "Mul", "LayerNormalization", "Softmax", "Erf", "Sigmoid"}
    assert needed <= SUPPORTED[version]
    assert OPSETS[version][0] <= 18 <= OPSETS[version][1]


def test_what_a_version_lacks_is_named() -> None:
    assert unsupported(["Conv", "Attention"]) == {"10.0": {"Attention"}}
    assert unsupported({"MatMulInteger"}) == {version: {"MatMulInteger"} for version in SUPPORTED}
    assert unsupported([]) == {}


def test_every_operator_of_an_exported_encoder_is_taken(tmp_path: Path) -> None:
    onnx: Any = pytest.importorskip("onnx")
    graph: Any = pytest.importorskip("secondlook.export.graph")
    writing: Any = pytest.importorskip("secondlook.export.writing")
    model = load_model("demo")
    module: Any = model
    dtype = torch.float16  # its graph has the casts of half precision too
    writing.write_graph(graph.EncoderGraph(module.module, dtype), model.image_size, dtype, 18, tmp_path)
    written = onnx.load(tmp_path / GRAPH_FILE, load_external_data=False)
    assert {(one.domain, one.version) for one in written.opset_import} == {("", 18)}
    operators = {node.op_type for node in written.graph.node}
    assert operators
    assert unsupported(operators) == {}
