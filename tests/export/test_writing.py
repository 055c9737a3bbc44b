"""The graph's files: names, axes, operators, types."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
from onnx import NodeProto

from engine.checkpoints import GRID, IMAGE_SIZE
from export.support import GRAPH_FILE, WEIGHTS_FILE, Exported
from repository import ROOT
from secondlook.edge.errors import SettingsError
from secondlook.engine.encoders.manifest import GraphDType
from secondlook.export.exporting import ExportSettings
from secondlook.export.graph import WrittenEncoder, write_encoder

STANDARD = {
    "Add",
    "Cast",
    "Concat",
    "Div",
    "Erf",
    "Expand",
    "LayerNormalization",
    "MatMul",
    "Mul",
    "Reshape",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Transpose",
}
ELEMENT_TYPES = {"float32": 1, "float16": 10, "bfloat16": 16, "int8": 1}
BLOCKS = 2
"""Of the small checkpoint's three, up to layer -2."""


@pytest.fixture(scope="module", params=["float32", "float16", "bfloat16"])
def written(
    request: pytest.FixtureRequest, exported: Exported, tmp_path_factory: pytest.TempPathFactory
) -> WrittenEncoder:
    dtype: GraphDType = request.param
    return write_encoder(exported.model, dtype, 18, tmp_path_factory.mktemp("written"))


def nodes(written: WrittenEncoder) -> list[NodeProto]:
    return list(onnx.load(written.folder / GRAPH_FILE, load_external_data=False).graph.node)


def test_input_and_output_are_as_documented(written: WrittenEncoder) -> None:
    graph = onnx.load(written.folder / GRAPH_FILE, load_external_data=False).graph
    (taken,), (given,) = graph.input, graph.output
    shapes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (taken, given)
    ]
    assert (taken.name, given.name) == ("pixel_values", "features")
    assert shapes == [["batch", 3, IMAGE_SIZE, IMAGE_SIZE], ["batch", GRID**2, 64]]
    assert {value.type.tensor_type.elem_type for value in (taken, given)} == {ELEMENT_TYPES[written.dtype]}


def test_it_is_plain_onnx_of_opset_18(written: WrittenEncoder) -> None:
    model = onnx.load(written.folder / GRAPH_FILE, load_external_data=False)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    kinds = Counter(node.op_type for node in model.graph.node)
    assert set(kinds) <= STANDARD
    assert kinds["LayerNormalization"] == 2 * BLOCKS + 1  # single nodes, and no final norm
    assert kinds["Softmax"] == BLOCKS
    assert written.check() == []


def test_the_query_is_scaled_before_the_first_product(written: WrittenEncoder) -> None:
    made = {name: node for node in nodes(written) for name in node.output}

    def product_before(node: NodeProto) -> NodeProto:
        return node if node.op_type == "MatMul" else product_before(made[node.input[0]])

    softmaxes = [node for node in made.values() if node.op_type == "Softmax"]
    for softmax in softmaxes:
        between = made[softmax.input[0]].op_type
        assert between == ("MatMul" if written.dtype == "float32" else "Cast")
        assert made[product_before(softmax).input[0]].op_type == "Mul"


def test_norms_and_softmax_compute_in_float32(written: WrittenEncoder) -> None:
    model = onnx.shape_inference.infer_shapes(
        onnx.load(written.folder / GRAPH_FILE, load_external_data=False)
    )
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    for node in model.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert types[node.output[0]] == 1


def test_every_large_tensor_is_in_the_weights_file(written: WrittenEncoder) -> None:
    assert {file.name for file in written.folder.iterdir()} == {GRAPH_FILE, WEIGHTS_FILE}
    assert (written.folder / GRAPH_FILE).stat().st_size < 50_000


def test_the_graph_does_not_tell_where_it_was_made(written: WrittenEncoder) -> None:
    content = (written.folder / GRAPH_FILE).read_bytes()
    for told in (str(ROOT), "site-packages", "graph.py", str(Path.home())):
        assert told.encode() not in content


def test_a_later_opset_can_be_asked_for(exported: Exported, tmp_path: Path) -> None:
    written = write_encoder(exported.model, "float32", 20, tmp_path)
    assert written.check() == []
    assert onnx.load(tmp_path / GRAPH_FILE, load_external_data=False).opset_import[0].version == 20


@pytest.mark.parametrize(
    ("opset", "possible"), [(17, "greater than or equal to 18"), (23, "less than or equal to 22")]
)
def test_an_opset_without_single_norms_or_with_attention_nodes_is_refused(opset: int, possible: str) -> None:
    with pytest.raises(SettingsError, match=f"opset should be {possible}, not {opset}"):
        ExportSettings(opset=opset)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(
        SettingsError, match="dtype should be 'float32', 'float16', 'bfloat16' or 'int8', not 'fp8'"
    ):
        ExportSettings("fp8")  # type: ignore[arg-type]


def test_an_int8_graph_multiplies_weights_of_eight_bits(exported: Exported, tmp_path: Path) -> None:
    written = write_encoder(exported.model, "int8", 18, tmp_path)
    kinds = Counter(node.op_type for node in nodes(written))
    # Every product with weights, and no other: each block's two of attention are left.
    assert kinds["MatMulInteger"] == 1 + 6 * BLOCKS + 2
    assert kinds["MatMul"] == 2 * BLOCKS
    assert written.check() == []
    assert {file.name for file in tmp_path.iterdir()} == {GRAPH_FILE, WEIGHTS_FILE}
