"""The vision encoder in ONNX Runtime.

What it takes and gives stays torch's: ONNX Runtime reads and writes the tensors' own memory, on the CPU as
on a GPU, in float32, float16 and bfloat16 alike. Its CPU provider has no bfloat16 products, and refuses such
a graph; float16 it computes in float32.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from secondlook.edge.errors import SettingsError
from secondlook.engine.encoders.manifest import EncoderManifest, graph_file
from secondlook.engine.errors import DeviceError, EncoderError, InvalidEncoderError, RuntimeMissingError
from secondlook.engine.models.vision import Interface, sized

__all__ = ["OnnxVisionEncoder", "Provider", "first_line", "open_onnx", "open_session"]

Provider = Literal["auto", "tensorrt"]
"""What computes inside ONNX Runtime: "auto" is the device's own, CPU or CUDA; "tensorrt" builds a plan
from the graph when it is first run, on a CUDA device."""

_ELEMENT_TYPES: Final = {
    torch.float32: 1,
    torch.int64: 7,
    torch.bool: 9,
    torch.float16: 10,
    torch.bfloat16: 16,
}
"""ONNX's numbers of element types (onnx.TensorProto)."""


def open_onnx(
    folder: Path,
    manifest: EncoderManifest,
    device: torch.device,
    *,
    provider: Provider = "auto",
    threads: int | None = None,
) -> tuple[OnnxVisionEncoder, ...]:
    """The graphs of an exported folder in their order, after every file was compared with its digest.

    Args:
        threads: of the CPU provider; by default torch's, `torch.get_num_threads()` at this moment.

    Raises:
        InvalidEncoderError: a file is not as it was exported, or ONNX Runtime cannot read it.
        RuntimeMissingError: ONNX Runtime or the provider is not installed, or cannot compute the graph.
        DeviceError: "tensorrt" on a CPU.
        SettingsError: an unknown provider.
    """
    manifest.check_files(folder)
    if manifest.dtype == "bfloat16" and device.type == "cpu":
        raise RuntimeMissingError(
            f"{folder} computes in bfloat16, for which ONNX Runtime has no products on CPUs; "
            "use --device cuda, or export with --dtype float32"
        )
    return tuple(
        OnnxVisionEncoder(
            open_session(folder / graph_file(name), device, provider=provider, threads=threads),
            interface,
            device,
        )
        for name, interface in manifest.graphs.items()
    )


class OnnxVisionEncoder:
    """A session as a `secondlook.engine.models.vision.VisionEncoder`.

    Args:
        session: of `open_session`, on the same device.
        interface: of the graph, in its own dtype.
    """

    def __init__(self, session: Any, interface: Interface, device: torch.device) -> None:
        self._session, self._interface, self._device = session, interface, device

    def __call__(self, *given: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Waits for what the graph makes of its inputs.

        Raises:
            EncoderError: the graph takes other inputs, or ONNX Runtime could not run.
        """
        interface, device = self._interface, self._device
        lengths = interface.lengths(given)
        taken = [
            tensor.to(getattr(torch, one.dtype)).contiguous()
            for one, tensor in zip(interface.inputs, given, strict=True)
        ]
        made = [
            torch.empty(sized(one.shape, lengths), dtype=getattr(torch, one.dtype), device=device)
            for one in interface.outputs
        ]
        binding = self._session.io_binding()
        for one, tensor in zip(interface.inputs, taken, strict=True):
            binding.bind_input(one.name, *_memory(tensor))
        for one, tensor in zip(interface.outputs, made, strict=True):
            binding.bind_output(one.name, *_memory(tensor))
        if device.type == "cuda":
            # ONNX Runtime computes on a stream of its own, and waits for that one at the end of a run.
            torch.cuda.current_stream(device).synchronize()
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's have no common type
            raise EncoderError(f"ONNX Runtime could not run: {first_line(error)}") from error
        found = tuple(tensor.to(given[0].dtype) for tensor in made)
        return found[0] if len(found) == 1 else found


def open_session(
    graph: Path,
    device: torch.device,
    *,
    provider: Provider = "auto",
    threads: int | None = None,
    optimised: Path | None = None,
) -> Any:
    """An `onnxruntime.InferenceSession` on exactly the provider that is asked for.

    Args:
        optimised: write what ONNX Runtime made of the graph here, weights beside it.

    Raises:
        InvalidEncoderError, RuntimeMissingError, DeviceError, SettingsError: see `open_onnx`.
    """
    runtime = _import_runtime()
    name, options = _provider(provider, device)
    available = runtime.get_available_providers()
    if name not in available:
        raise RuntimeMissingError(
            f"ONNX Runtime has no {name} here, only {', '.join(available)}; pip install onnxruntime-gpu "
            "in place of onnxruntime, or use --device cpu"
        )
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
    # Threads that wait for work must not keep the cores from torch, which decodes on them in between.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.log_severity_level = 3  # errors, and those are raised too
    if optimised is not None:
        settings.optimized_model_filepath = str(optimised)
        names = "session.optimized_model_external_initializers"
        settings.add_session_config_entry(f"{names}_file_name", f"{optimised.name}.data")
        settings.add_session_config_entry(f"{names}_min_size_in_bytes", "1024")
    try:
        session = runtime.InferenceSession(str(graph), settings, providers=[(name, options)])
    except Exception as error:  # ONNX Runtime's have no common type
        if type(error).__name__ == "NotImplemented":
            raise RuntimeMissingError(f"{name} cannot compute {graph}: {first_line(error)}") from error
        raise InvalidEncoderError(f"ONNX Runtime cannot load {graph}: {first_line(error)}") from error
    if session.get_providers()[0] != name:
        raise RuntimeMissingError(
            f"ONNX Runtime could not start {name} and took {session.get_providers()[0]}; see its requirements"
        )
    return session


def _import_runtime() -> Any:
    try:
        onnxruntime = import_module("onnxruntime")  # it has no types
    except ImportError as error:
        raise RuntimeMissingError(
            f"ONNX Runtime cannot be loaded ({error}); pip install onnxruntime, or onnxruntime-gpu for a GPU"
        ) from error
    return onnxruntime


def _provider(provider: Provider, device: torch.device) -> tuple[str, dict[str, str]]:
    if provider not in get_args(Provider):
        raise SettingsError(f"provider must be one of {', '.join(get_args(Provider))}, not {provider!r}")
    number = str(device.index or 0)
    if device.type == "cuda":
        if provider == "tensorrt":
            return "TensorrtExecutionProvider", {"device_id": number}
        # By default its float32 products have the ten bits of TF32.
        return "CUDAExecutionProvider", {"device_id": number, "use_tf32": "0"}
    if provider == "tensorrt":
        raise DeviceError(
            f"ONNX Runtime's TensorRT provider needs a CUDA GPU, not {device}; use --device cuda"
        )
    return "CPUExecutionProvider", {}


def _memory(tensor: Tensor) -> tuple[str, int, int, tuple[int, ...], int]:
    """A tensor as I/O binding takes it: device, its number, element type, shape and address."""
    device = tensor.device
    return (
        device.type,
        device.index or 0,
        _ELEMENT_TYPES[tensor.dtype],
        tuple(tensor.shape),
        tensor.data_ptr(),
    )


def first_line(error: BaseException) -> str:
    """What an error says, without what follows."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
