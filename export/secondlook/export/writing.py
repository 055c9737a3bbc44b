"""From a torch module to the files of an ONNX graph; the same module gives the same bytes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from secondlook.engine.encoders.manifest import GRAPH_FILE
from secondlook.export.errors import ExportError
from secondlook.export.graph import INPUT_NAME, OUTPUT_NAME, EncoderGraph

__all__ = ["DEFAULT_OPSET", "OPSETS", "write_graph"]

OPSETS: Final = range(18, 23)
"""From the one in which a layer norm is a single node, to the last without an attention node, which parsers
in the field do not know."""

DEFAULT_OPSET: Final = OPSETS.start
"""That most runtimes can parse."""

_EXAMPLE_BATCH: Final = 2
"""A batch of one would be taken for a constant."""


def write_graph(graph: EncoderGraph, side: int, dtype: torch.dtype, opset: int, folder: Path) -> None:
    """Write `encoder.onnx` and, beside it, its weights.

    Raises:
        ExportError: torch's exporter cannot.
        OSError: the files cannot be written.
    """
    pixels = torch.zeros(_EXAMPLE_BATCH, 3, side, side, dtype=dtype)
    with _quiet():
        try:
            program: Any = torch.onnx.export(
                graph.eval(),
                (pixels,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(f"torch cannot export the vision encoder: {_first_line(error)}") from error
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks about packages that it does not need, and about its own innards."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
