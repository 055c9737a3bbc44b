"""An encoder's ONNX graph: written, the same bytes for the same weights; quantised, checked, opened.

    name          what                        shape                     dtype
    pixel_values  input, normalised pixels    [batch, 3, side, side]    the graph's; float32 for int8
    features      output, visual features     [batch, tokens, width]    the input's

`batch` is dynamic, `tokens` is the grid of patches, row-major, and `width` is the language model's. In half
precision norms, softmax and the sums between blocks are float32, so that nothing overflows in float16.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import onnx
import torch
from onnx import NodeProto, TensorProto, helper, shape_inference
from torch import nn

from secondlook.engine.encoders.manifest import GRAPH_FILE, GraphDType, TensorType
from secondlook.engine.encoders.onnx_runtime import OnnxVisionEncoder, first_line, open_session
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.export.errors import ExportError, Failure

__all__ = ["DEFAULT_OPSET", "OPSETS", "WrittenGraph", "check_graph", "narrowed", "write_encoder"]

OPSETS: Final = range(18, 23)
"""From the one in which a layer norm is a single node, to the last without an attention node, which parsers
in the field do not know."""

DEFAULT_OPSET: Final = OPSETS.start
"""That most runtimes can parse."""

_EXAMPLE_BATCH: Final = 2
"""A batch of one would be taken for a constant."""

_DTYPES: Final = {1: "float32", 10: "float16", 16: "bfloat16"}
"""torch's names of ONNX's element types (onnx.TensorProto)."""


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
        """The graph in ONNX Runtime on the CPU, a bfloat16 one as `_widen` has it.

        Raises:
            EncoderError: ONNX Runtime cannot load it.
        """
        cpu, graph_file = torch.device("cpu"), self.folder / GRAPH_FILE
        if self.dtype != "bfloat16":
            return OnnxVisionEncoder(open_session(graph_file, cpu), self.taken, self.given, cpu)
        widened = self.folder / "widened.onnx"  # beside the weights, which it shares
        _widen(graph_file, widened)
        try:
            return OnnxVisionEncoder(open_session(widened, cpu), self.taken, self.given, cpu)
        finally:
            widened.unlink()


def write_encoder(model: VisionLanguageModel, dtype: GraphDType, opset: int, folder: Path) -> WrittenGraph:
    """Write a model's encoder into a folder, as graph and weights.

    Raises:
        ExportError: torch cannot export it.
        OSError: the files cannot be written.
    """
    computed = torch.float32 if dtype == "int8" else getattr(torch, dtype)
    module, side = narrowed(model.vision_module(), computed), model.preprocessing.side
    if dtype == "int8":
        with TemporaryDirectory(dir=folder) as inner:
            _write(module, side, computed, opset, Path(inner))
            _quantise(Path(inner) / GRAPH_FILE, folder / GRAPH_FILE)
    else:
        _write(module, side, computed, opset, folder)
    tokens, width = model.most_visual_tokens[0], model.decoder.width
    name = str(computed).removeprefix("torch.")
    taken = TensorType("pixel_values", ("batch", 3, side, side), name)
    given = TensorType("features", ("batch", tokens, width), name)
    return WrittenGraph(folder, dtype, opset, taken, given)


def narrowed(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in plain layers whose products are of a dtype; all that is not a linear layer stays as it is."""
    copied = copy.deepcopy(module).eval()
    for part in copied.modules():
        if isinstance(part, nn.Linear):
            part.to(dtype)
            part.register_forward_pre_hook(lambda _part, given: (given[0].to(dtype),))
    return copied


def check_graph(graph_file: Path, opset: int, taken: TensorType, given: TensorType) -> list[Failure]:
    """ONNX's checker, with shapes inferred; the opset, and no operators of others; names, axes and types."""
    failures = []
    try:
        onnx.checker.check_model(str(graph_file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        failures.append(Failure("graph", f"ONNX's checker: {first_line(error)}"))
    model = onnx.load(graph_file, load_external_data=False)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if opsets != {"ai.onnx": opset}:
        failures.append(Failure("graph", f"its operators are of {opsets}, not of opset {opset}"))
    for what, values, expected in (
        ("input", model.graph.input, taken),
        ("output", model.graph.output, given),
    ):
        found = [_tensor_type(value) for value in values]
        if found != [expected]:
            failures.append(Failure("interface", f"its {what} is {found}, not {expected}"))
    return failures


def _tensor_type(value: Any) -> TensorType:
    tensor = value.type.tensor_type
    shape = tuple(axis.dim_param or axis.dim_value for axis in tensor.shape.dim)
    return TensorType(value.name, shape, _DTYPES.get(tensor.elem_type, str(tensor.elem_type)))


def _write(module: nn.Module, side: int, dtype: torch.dtype, opset: int, folder: Path) -> None:
    """Write the graph and, beside it, its weights."""
    pixels = torch.zeros(_EXAMPLE_BATCH, 3, side, side, dtype=dtype)
    with _quiet("torch.onnx"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            program: Any = torch.onnx.export(
                module,
                (pixels,),
                dynamo=True,
                opset_version=opset,
                input_names=["pixel_values"],
                output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            why = first_line(error.__cause__ or error)
            raise ExportError(f"torch cannot export the vision encoder: {why}") from error
    model = program.model
    found = model.opset_imports.get("")
    if found != opset:
        raise ExportError(f"torch exported opset {found}, not {opset}; choose another --opset")
    _strip(model)
    program.save(folder / GRAPH_FILE, external_data=True)


def _strip(model: Any) -> None:
    """Remove what tells of the exporting machine: stack traces with its paths, and the names of files."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def _quantise(graph_file: Path, quantised_file: Path) -> None:
    """Write a float32 graph with its products in int8, for CPUs, by ONNX Runtime's own tool.

    Weights are rounded for each output channel, activations as they come; norms, softmax and everything
    between stay in float32, and so do input and output.
    """
    quantization = import_module("onnxruntime.quantization")  # it has no types
    with _quiet(None):  # it advises on the root logger
        quantization.quantize_dynamic(
            graph_file,
            quantised_file,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"MatMulConstBOnly": True},
        )


@contextmanager
def _quiet(name: str | None) -> Iterator[None]:
    """Without a logger's remarks about its own innards and packages that are not needed."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _widen(graph_file: Path, widened_file: Path) -> None:
    """Write a bfloat16 graph for a runtime without bfloat16 products: each operator in float32, its result
    rounded, as hardware for bfloat16 does, which sums in float32 and rounds once.

    Only the gate uses it, to compute on any machine what the exported graph stands for. It reads its weights
    from the same file.
    """
    model = onnx.load(graph_file, load_external_data=False)
    graph, narrow_type = model.graph, TensorProto.BFLOAT16
    typed = shape_inference.infer_shapes(model).graph
    narrow = {
        value.name
        for value in (*typed.input, *typed.value_info, *typed.output)
        if value.type.tensor_type.elem_type == narrow_type
    } | {tensor.name for tensor in graph.initializer if tensor.data_type == narrow_type}
    given = (*(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer))
    nodes = [_cast(name, f"{name}.wide") for name in given if name in narrow]
    for node in graph.node:
        results = [name for name in node.output if name in narrow]
        if node.op_type != "Cast":  # which rounds by itself
            _rename(node.input, narrow, "wide")
            _rename(node.output, narrow, "exact")
        nodes.append(node)
        for name in results:
            if node.op_type != "Cast":
                nodes.append(_cast(f"{name}.exact", name, narrow_type))
            nodes.append(_cast(name, f"{name}.wide"))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # the types that they tell have changed
    onnx.save(model, widened_file)


def _rename(names: Any, narrow: set[str], ending: str) -> None:
    for index, name in enumerate(names):
        if name in narrow:
            names[index] = f"{name}.{ending}"


def _cast(source: str, target: str, to: int = TensorProto.FLOAT) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"widen/{target}", to=to)
