"""An encoder's ONNX graphs: written, the same bytes for the same weights; quantised, checked, opened.

What they take and give is the model's to say (`VisionLanguageModel.vision_graphs`); floats are in the graph's
dtype, in float32 for int8. In half precision norms, convolutions, softmax and the sums between blocks are
float32, so that nothing overflows in float16.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import onnx
import torch
from onnx import NodeProto, TensorProto, helper, shape_inference
from torch import Tensor, nn

from secondlook.engine.encoders.manifest import GraphDType, graph_file
from secondlook.engine.encoders.onnx_runtime import OnnxVisionEncoder, first_line, open_session
from secondlook.engine.models.attention import GRAPH_ATTENTION
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.vision import Interface, TensorType, VisionGraph
from secondlook.export.errors import ExportError, Failure

__all__ = [
    "DEFAULT_OPSET",
    "OPSETS",
    "WrittenEncoder",
    "check_graphs",
    "dtype_name",
    "narrowed",
    "told",
    "write_encoder",
]

OPSETS: Final = range(18, 23)
"""From the one in which a layer norm is a single node, to the last without an attention node, which parsers
in the field do not know."""

DEFAULT_OPSET: Final = OPSETS.start
"""That most runtimes can parse."""

_DTYPES: Final = {1: "float32", 7: "int64", 9: "bool", 10: "float16", 16: "bfloat16"}
"""torch's names of ONNX's element types (onnx.TensorProto)."""


@dataclass(frozen=True)
class WrittenEncoder:
    """An encoder's files in a folder, not yet compared with anything.

    Attributes:
        graphs: as the manifest has them.
    """

    folder: Path
    dtype: GraphDType
    opset: int
    graphs: dict[str, Interface]

    def check(self) -> list[Failure]:
        """What is wrong with the graphs themselves."""
        return check_graphs(self.folder, self.opset, self.graphs)

    def open(self) -> tuple[OnnxVisionEncoder, ...]:
        """The graphs in ONNX Runtime on the CPU, bfloat16 ones as `_widen` has them.

        Raises:
            EncoderError: ONNX Runtime cannot load one.
        """
        return tuple(self._open(self.folder / graph_file(name), graph) for name, graph in self.graphs.items())

    def _open(self, file: Path, interface: Interface) -> OnnxVisionEncoder:
        cpu = torch.device("cpu")
        if self.dtype != "bfloat16":
            return OnnxVisionEncoder(open_session(file, cpu), interface, cpu)
        widened = self.folder / "widened.onnx"  # beside the weights, which it shares
        _widen(file, widened)
        try:
            return OnnxVisionEncoder(open_session(widened, cpu), interface, cpu)
        finally:
            widened.unlink()


def write_encoder(model: VisionLanguageModel, dtype: GraphDType, opset: int, folder: Path) -> WrittenEncoder:
    """Write a model's encoder into a folder, as graphs and weights.

    Raises:
        ExportError: torch cannot export it.
        EncoderError: the architecture is not exported.
        OSError: the files cannot be written.
    """
    computed = torch.float32 if dtype == "int8" else getattr(torch, dtype)
    written = dict[str, Interface]()
    for name, graph in model.vision_graphs().items():
        file, interface = folder / graph_file(name), graph.interface.in_dtype(dtype_name(computed))
        narrow = VisionGraph(narrowed(graph.module, computed), interface, graph.example)
        if dtype == "int8":
            with TemporaryDirectory(dir=folder) as inner:
                _write(narrow, opset, Path(inner) / file.name)
                _quantise(Path(inner) / file.name, file)
        else:
            _write(narrow, opset, file)
        written[name] = interface
    return WrittenEncoder(folder, dtype, opset, written)


def dtype_name(dtype: torch.dtype) -> str:
    """As interfaces have it."""
    return str(dtype).removeprefix("torch.")


def narrowed(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in plain layers whose products, and results, are of a dtype; all other layers stay as they are.

    Transformers' attention in it is `secondlook.engine.models.attention.graph_attention`.
    """
    copied = copy.deepcopy(module).eval()
    for part in copied.modules():
        if isinstance(part, nn.Linear):
            part.to(dtype)
        if isinstance(part, nn.Linear | nn.Conv2d):
            part.register_forward_pre_hook(lambda one, given: (given[0].to(one.weight.dtype),))
        config: Any = getattr(part, "config", None)
        if config is not None:  # the copy's own
            config._attn_implementation = GRAPH_ATTENTION
    return _Narrowed(copied, dtype)


class _Narrowed(nn.Module):
    """A module with the floats of its results in a dtype."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, *given: Tensor) -> Any:
        made = self.module(*given)
        return made.to(self.dtype) if isinstance(made, Tensor) else tuple(one.to(self.dtype) for one in made)


def check_graphs(folder: Path, opset: int, graphs: Mapping[str, Interface]) -> list[Failure]:
    """ONNX's checker, with shapes inferred; the opset, and no operators of others; names, axes and types."""
    return [
        failure
        for name, interface in graphs.items()
        for failure in _check_graph(folder / graph_file(name), opset, interface)
    ]


def _check_graph(file: Path, opset: int, interface: Interface) -> Iterator[Failure]:
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        yield Failure("graph", f"ONNX's checker: {first_line(error)}")
    model = onnx.load(file, load_external_data=False)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if opsets != {"ai.onnx": opset}:
        yield Failure("graph", f"its operators are of {opsets}, not of opset {opset}")
    for what, values, expected in (
        ("input", model.graph.input, interface.inputs),
        ("output", model.graph.output, interface.outputs),
    ):
        found = tuple(map(_tensor_type, values))
        if found != expected:
            yield Failure("interface", f"its {what} is {told(found)}, not {told(expected)}")


def told(tensors: Iterable[TensorType]) -> str:
    """A graph's inputs or outputs, for people."""
    return ", ".join(f"{one} {one.dtype}" for one in tensors)


def _tensor_type(value: Any) -> TensorType:
    tensor = value.type.tensor_type
    shape = tuple(axis.dim_param or axis.dim_value for axis in tensor.shape.dim)
    return TensorType(value.name, shape, _DTYPES.get(tensor.elem_type, str(tensor.elem_type)))


def _write(graph: VisionGraph, opset: int, file: Path) -> None:
    """Write the graph and, beside it, its weights."""
    inputs, axes = graph.interface.inputs, graph.interface.axes
    dims = {
        name: torch.export.Dim(name, max=None if axis.adds_up else axis.most) for name, axis in axes.items()
    }
    shapes = [{at: dims[one] for at, one in enumerate(each.shape) if isinstance(one, str)} for each in inputs]
    example = tuple(
        tensor.to(getattr(torch, one.dtype)) for one, tensor in zip(inputs, graph.example(), strict=True)
    )
    with _quiet("torch.onnx"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program: Any = torch.onnx.export(
                graph.module,
                example,
                dynamo=True,
                opset_version=opset,
                input_names=[one.name for one in inputs],
                output_names=[one.name for one in graph.interface.outputs],
                dynamic_shapes=(tuple(shapes),),
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
    program.save(file, external_data=True)


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


def _quantise(file: Path, quantised_file: Path) -> None:
    """Write a float32 graph with its products in int8, for CPUs, by ONNX Runtime's own tool.

    Weights are rounded for each output channel, activations as they come; norms, softmax and everything
    between stay in float32, and so do input and output.
    """
    quantization = import_module("onnxruntime.quantization")  # it has no types
    model = onnx.load(file, load_external_data=False)
    # The tool transposes some weights, and then takes what the graph tells of their shapes for wrong.
    weights = {one.name for one in model.graph.initializer}
    told = [one for one in model.graph.value_info if one.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(told)
    onnx.save(model, file)
    with _quiet(None):  # it advises on the root logger
        quantization.quantize_dynamic(
            file,
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


def _widen(file: Path, widened_file: Path) -> None:
    """Write a bfloat16 graph for a runtime without bfloat16 products: each operator in float32, its result
    rounded, as hardware for bfloat16 does, which sums in float32 and rounds once.

    Only the gate uses it, to compute on any machine what the exported graph stands for. It reads its weights
    from the same file.
    """
    model = onnx.load(file, load_external_data=False)
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
