"""The vision encoder in OpenVINO, on the CPU.

One export in float32 serves two precisions: OpenVINO computes its products in float32, or rounds their
factors to bfloat16 where the processor has such products. It reads and writes torch's own memory.

What it compiled is not kept. It has as many bytes as the weights, and to read and compare them takes longer
than to compile the graph again.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, Final, Literal

import torch
from torch import Tensor

from secondlook.engine.encoders.manifest import EncoderManifest, graph_file
from secondlook.engine.errors import DeviceError, EncoderError, InvalidEncoderError, RuntimeMissingError
from secondlook.engine.models.vision import Interface, sized

__all__ = [
    "HINTS",
    "GraphPrecision",
    "OpenVinoVisionEncoder",
    "Precision",
    "compile_graph",
    "load_openvino",
    "open_openvino",
    "precisions",
]

Precision = Literal["auto", "float32", "bfloat16"]
"""What products are computed in. "auto": in bfloat16 if the model is loaded in it and the processor has such
products, else in float32."""

GraphPrecision = Literal["float32", "bfloat16"]

HINTS: Final[dict[GraphPrecision, str]] = {"float32": "f32", "bfloat16": "bf16"}
"""OpenVINO's names of precisions."""


def open_openvino(
    folder: Path,
    manifest: EncoderManifest,
    device: torch.device,
    dtype: torch.dtype,
    *,
    precision: Precision = "auto",
) -> tuple[OpenVinoVisionEncoder, ...]:
    """The graphs of an exported folder in their order, after every file was compared with its digest.

    Args:
        dtype: that the model is loaded in.

    Raises:
        InvalidEncoderError: a file is not as it was exported, or OpenVINO cannot read it.
        RuntimeMissingError: OpenVINO is not installed, or cannot compute the graph in this precision.
        DeviceError: not the CPU.
    """
    if device.type != "cpu":
        raise DeviceError(f"OpenVINO encodes on the CPU, and the device is {device}; use --device cpu")
    runtime = load_openvino()
    core = runtime.Core()
    if manifest.dtype not in ("float32", "int8"):
        raise RuntimeMissingError(
            f"{folder} computes in {manifest.dtype}, and OpenVINO is given float32: export with --dtype "
            "float32; --precision bfloat16 computes that in bfloat16"
        )
    narrow = "bfloat16" in precisions(core)
    if precision == "bfloat16" and not narrow:
        raise RuntimeMissingError(
            "OpenVINO has no products in bfloat16 on this processor; leave --precision out"
        )
    if precision == "auto":
        precision = "bfloat16" if narrow and dtype == torch.bfloat16 else "float32"
    manifest.check_files(folder)
    return tuple(
        OpenVinoVisionEncoder(
            runtime, compile_graph(core, folder / graph_file(name), precision), manifest.graphs[name]
        )
        for name in manifest.graphs
    )


class OpenVinoVisionEncoder:
    """A compiled graph as a `secondlook.engine.models.vision.VisionEncoder`. May be called on any thread.

    Args:
        runtime: the module `openvino`.
        compiled: of `compile_graph`.
        interface: of the graph.
    """

    def __init__(self, runtime: Any, compiled: Any, interface: Interface) -> None:
        self._runtime, self._interface = runtime, interface
        self._request = compiled.create_infer_request()
        self._lock = Lock()  # a request computes one thing at a time

    def __call__(self, *given: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Waits for what the graph makes of its inputs.

        Raises:
            EncoderError: the graph takes other inputs, or OpenVINO could not run.
        """
        interface = self._interface
        lengths = interface.lengths(given)
        taken = [
            tensor.detach().to(getattr(torch, one.dtype)).contiguous()
            for one, tensor in zip(interface.inputs, given, strict=True)
        ]
        made = [
            torch.empty(sized(one.shape, lengths), dtype=getattr(torch, one.dtype))
            for one in interface.outputs
        ]
        named = zip((*interface.inputs, *interface.outputs), (*taken, *made), strict=True)
        with self._lock:
            try:
                for one, tensor in named:
                    self._request.set_tensor(
                        one.name, self._runtime.Tensor(tensor.numpy(), shared_memory=True)
                    )
                self._request.infer()
            except RuntimeError as error:
                raise EncoderError(f"OpenVINO could not run: {_said(error)}") from error
        found = tuple(tensor.to(given[0].dtype) for tensor in made)
        return found[0] if len(found) == 1 else found


def compile_graph(core: Any, graph: Path, precision: GraphPrecision) -> Any:
    """An `openvino.CompiledModel` for the CPU, with as many threads as torch has at this moment.

    Raises:
        InvalidEncoderError: OpenVINO cannot read the graph.
    """
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # Every process would pin its threads to the same cores, those of torch and of other servers' too.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        return core.compile_model(graph, "CPU", settings)
    except RuntimeError as error:
        raise InvalidEncoderError(f"OpenVINO cannot load {graph}: {_said(error)}") from error


def precisions(core: Any) -> list[GraphPrecision]:
    """Those that this processor has products in."""
    narrow = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ["float32", "bfloat16"] if narrow else ["float32"]


def load_openvino() -> Any:
    """The module `openvino`.

    Raises:
        RuntimeMissingError: it is not installed, or cannot be loaded.
    """
    try:
        return import_module("openvino")
    except (ImportError, OSError) as error:
        raise RuntimeMissingError(
            f"OpenVINO cannot be loaded ({error}); pip install 'secondlook[openvino]'"
        ) from error


def _said(error: RuntimeError) -> str:
    """What OpenVINO says, in one line, without where in its sources it does."""
    told = (line.strip() for line in str(error).splitlines())
    return " ".join(line for line in told if not line.startswith(("Exception from ", "Check '")))
