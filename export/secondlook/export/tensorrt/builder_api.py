"""The part of TensorRT's Python interface that building an engine needs, with types.

As in `secondlook.engine.encoders.tensorrt_api`: nothing else of TensorRT is called, and a test compares every
name and parameter with NVIDIA's own wheels.
"""

from __future__ import annotations

from typing import Any, Protocol

from secondlook.engine.encoders.tensorrt_api import (
    Engine,
    Enumerator,
    ExecutionContext,
    Logger,
    TensorRt,
    load_tensorrt,
)

__all__ = [
    "Builder",
    "Config",
    "HostMemory",
    "InspectableEngine",
    "Inspector",
    "Network",
    "Parser",
    "ParserError",
    "Profile",
    "TensorRtBuilder",
    "TimingCache",
    "load_builder",
]


class HostMemory(Protocol):
    """TensorRT's IHostMemory: bytes, as a buffer (`memoryview`)."""

    @property
    def nbytes(self) -> int: ...


class Profile(Protocol):
    """TensorRT's IOptimizationProfile."""

    def set_shape(
        self,
        input: str,  # noqa: A002  # TensorRT's names
        min: tuple[int, ...],  # noqa: A002
        opt: tuple[int, ...],
        max: tuple[int, ...],  # noqa: A002
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

    execution_context: ExecutionContext

    def get_engine_information(self, format: Enumerator) -> str: ...  # noqa: A002  # TensorRT's name


class InspectableEngine(Engine, Protocol):
    """An engine of the full TensorRT."""

    def create_engine_inspector(self) -> Inspector: ...


class TensorRtBuilder(TensorRt, Protocol):
    """The module `tensorrt`, whole. Its enumerations' members are asked for by name: their numbers change."""

    def Builder(self, logger: Logger) -> Builder: ...  # noqa: N802
    def OnnxParser(self, network: Network, logger: Logger) -> Parser: ...  # noqa: N802

    BuilderFlag: Any
    HardwareCompatibilityLevel: Any
    LayerInformationFormat: Any
    MemoryPoolType: Any
    NetworkDefinitionCreationFlag: Any
    ProfilingVerbosity: Any


def load_builder() -> TensorRtBuilder:
    """The full TensorRT; `tensorrt_lean` cannot build.

    Raises:
        RuntimeMissingError: see `load_tensorrt`.
    """
    full: Any = load_tensorrt("tensorrt")
    loaded: TensorRtBuilder = full
    return loaded
