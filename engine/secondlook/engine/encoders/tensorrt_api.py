"""The part of TensorRT's Python interface that plans need, with types, and how it is loaded.

TensorRT ships no types. The protocols below are ours: nothing else of TensorRT is called, which mypy sees to,
and a test compares every name and parameter in them with NVIDIA's own wheels of TensorRT 10 and 11.
"""

# ruff: noqa: N802, A002  # the names are TensorRT's

from __future__ import annotations

import ctypes
import logging
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import torch

from secondlook.engine.encoders.plan_manifest import Machine
from secondlook.engine.errors import DeviceError, RuntimeMissingError

__all__ = [
    "Builder",
    "Config",
    "Context",
    "Enumerator",
    "Library",
    "Logger",
    "Network",
    "Plan",
    "Runtime",
    "TensorRt",
    "TensorRtBuilder",
    "cuda_device",
    "load_builder",
    "load_tensorrt",
    "python_logger",
    "this_machine",
]

Library = Literal["auto", "tensorrt", "tensorrt_lean"]
"""auto: `tensorrt` if it is installed, else `tensorrt_lean`, which runs version-compatible plans only."""

_log = logging.getLogger(__name__)

_MAJORS: Final = ("10", "11")
_DRIVER_FILE: Final = Path("/proc/driver/nvidia/version")
_LEVELS: Final = {
    "INTERNAL_ERROR": logging.CRITICAL,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.INFO,
    "VERBOSE": logging.DEBUG,
}
"""Of Python's logging, by TensorRT's severity."""


class Enumerator(Protocol):
    """A member of one of TensorRT's enumerations."""

    @property
    def name(self) -> str: ...

    def __int__(self) -> int: ...


class Context(Protocol):
    """TensorRT's IExecutionContext: shapes, addresses and memory of one execution."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class Plan(Protocol):
    """TensorRT's ICudaEngine: a plan, ready to run."""

    @property
    def num_io_tensors(self) -> int: ...
    @property
    def num_optimization_profiles(self) -> int: ...

    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> Enumerator: ...
    def get_tensor_dtype(self, name: str) -> Enumerator: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Sequence[Sequence[int]]: ...
    def create_execution_context(self) -> Context | None: ...


class Runtime(Protocol):
    """TensorRT's Runtime. Creating one needs a CUDA driver: without, the process ends."""

    engine_host_code_allowed: bool

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Plan | None: ...


class TensorRt(Protocol):
    """The module `tensorrt` or `tensorrt_lean`."""

    __name__: str
    __version__: str

    @property
    def ILogger(self) -> Any: ...  # a class to derive from

    def Runtime(self, logger: Logger) -> Runtime: ...


class Logger(Protocol):
    """A logger made by `python_logger`; `last_error` is what TensorRT complained about last, or empty."""

    last_error: str


# What follows only the full TensorRT has.


class HostMemory(Protocol):
    """TensorRT's IHostMemory: bytes, as a buffer (`memoryview`)."""

    @property
    def nbytes(self) -> int: ...


class Profile(Protocol):
    """TensorRT's IOptimizationProfile."""

    def set_shape(
        self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]
    ) -> None: ...


class TimingCache(Protocol):
    """TensorRT's ITimingCache."""

    def serialize(self) -> HostMemory: ...


class Config(Protocol):
    """TensorRT's IBuilderConfig."""

    profiling_verbosity: Enumerator
    hardware_compatibility_level: Enumerator

    def set_flag(self, flag: Enumerator) -> None: ...
    def clear_flag(self, flag: Enumerator) -> None: ...
    def set_memory_pool_limit(self, pool: Enumerator, pool_size: int) -> None: ...
    def add_optimization_profile(self, profile: Profile) -> int: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache: ...
    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> TimingCache: ...


class Network(Protocol):
    """TensorRT's INetworkDefinition, which the parser fills."""


class ParserError(Protocol):
    """TensorRT's ParserError."""

    def desc(self) -> str: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...


class Parser(Protocol):
    """TensorRT's OnnxParser."""

    @property
    def num_errors(self) -> int: ...

    def parse_from_file(self, model: str) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...


class Builder(Protocol):
    """TensorRT's Builder. Creating one needs a GPU."""

    def create_network(self, flags: int) -> Network: ...
    def create_builder_config(self) -> Config: ...
    def create_optimization_profile(self) -> Profile: ...
    def build_serialized_network(self, network: Network, config: Config) -> HostMemory | None: ...


class Inspector(Protocol):
    """TensorRT's EngineInspector."""

    execution_context: Context

    def get_engine_information(self, format: Enumerator) -> str: ...


class InspectablePlan(Plan, Protocol):
    """A plan opened by the full TensorRT."""

    def create_engine_inspector(self) -> Inspector: ...


class TensorRtBuilder(TensorRt, Protocol):
    """The module `tensorrt`, whole. Its enumerations' members are asked for by name: their numbers change."""

    def Builder(self, logger: Logger) -> Builder: ...
    def OnnxParser(self, network: Network, logger: Logger) -> Parser: ...

    BuilderFlag: Any
    HardwareCompatibilityLevel: Any
    LayerInformationFormat: Any
    MemoryPoolType: Any
    NetworkDefinitionCreationFlag: Any
    ProfilingVerbosity: Any


def load_tensorrt(library: Library = "auto") -> TensorRt:
    """The module. Does nothing with a GPU.

    Raises:
        RuntimeMissingError: it is not installed, cannot be loaded, or is of a version that was never tried.
    """
    for name in ("tensorrt", "tensorrt_lean") if library == "auto" else (library,):
        try:
            module: Any = import_module(name)
        except (ImportError, OSError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name == name:
                continue
            raise RuntimeMissingError(f"{name} is installed, but cannot be loaded: {error}") from error
        version = str(getattr(module, "__version__", "none"))
        if version.split(".")[0] not in _MAJORS:
            raise RuntimeMissingError(f"{name} is of version {version}; 10 or 11 is needed")
        loaded: TensorRt = module
        return loaded
    wanted = "TensorRT" if library == "auto" else library
    extra = "tensorrt-lean" if library == "tensorrt_lean" else "tensorrt"
    smaller = "; where plans are only run, 'secondlook[tensorrt-lean]' is smaller"
    raise RuntimeMissingError(
        f"{wanted} is not installed: pip install 'secondlook[{extra}]'{smaller if library == 'auto' else ''}"
    )


def load_builder() -> TensorRtBuilder:
    """The full TensorRT; `tensorrt_lean` cannot build.

    Raises:
        RuntimeMissingError: see `load_tensorrt`.
    """
    full: Any = load_tensorrt("tensorrt")
    loaded: TensorRtBuilder = full
    return loaded


def python_logger(trt: TensorRt) -> Logger:
    """A logger for TensorRT that hands its messages to Python's logging, from any thread."""
    base = trt.ILogger

    class PythonLogger(base):  # type: ignore[misc,valid-type]  # TensorRT's class has no types
        def __init__(self) -> None:
            base.__init__(self)
            self.last_error = ""

        def log(self, severity: Enumerator, msg: str) -> None:
            level = _LEVELS[severity.name]
            if level >= logging.ERROR:
                self.last_error = msg.strip()
            _log.log(level, "%s", msg)

    made: Logger = PythonLogger()
    return made


def cuda_device(name: str) -> torch.device:
    """The device of an option; whether it is there, `this_machine` tells.

    Raises:
        DeviceError: it names none.
    """
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"there is no device {name!r}; use cuda or cuda:N") from error


def this_machine(device: torch.device) -> Machine:
    """The machine's part in a plan.

    Raises:
        DeviceError: it is no CUDA GPU of this machine.
    """
    if device.type != "cuda":
        raise DeviceError(f"TensorRT needs a CUDA GPU, and the device is {device}; use --device cuda")
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise DeviceError(f"TensorRT needs a CUDA GPU, and torch sees {count}; there is no {device}")
    major, minor = torch.cuda.get_device_capability(device)
    return Machine(torch.cuda.get_device_name(device), f"{major}.{minor}", _driver())


def _driver() -> str:
    """Version of the kernel's module; where that is not told, as in WSL, the CUDA that the driver is for."""
    if _DRIVER_FILE.is_file():
        found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", _DRIVER_FILE.read_text(encoding="utf-8"))
        if found is not None:
            return found.group()
    version = ctypes.c_int()
    if status := ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)):
        raise DeviceError(f"the CUDA driver does not tell its version: error {status}")
    return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
