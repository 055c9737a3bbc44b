"""From an ONNX graph to TensorRT's plan.

The network is strongly typed: every tensor has the type that the graph gives it, and there are no flags of
precision, which TensorRT 11 has no longer. The interface is used directly: with NVIDIA's Polygraphy (0.53)
this would be as long, and its loaders print instead of logging.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from secondlook.engine.encoders.plan_manifest import BuildOptions
from secondlook.engine.encoders.profiles import BatchProfile, shapes_of
from secondlook.engine.encoders.tensorrt_api import (
    Builder,
    Config,
    Logger,
    Network,
    TensorRtBuilder,
    python_logger,
)
from secondlook.engine.models.vision import Interface
from secondlook.export.errors import PlanBuildError

__all__ = ["BuiltPlan", "build_plan"]

_log = logging.getLogger(__name__)

_MIB: Final = 2**20


@dataclass(frozen=True)
class BuiltPlan:
    """A plan's bytes, and what was learnt about this GPU while building it."""

    plan: memoryview
    timing: memoryview


def build_plan(
    trt: TensorRtBuilder,
    graph: Path,
    interface: Interface,
    profiles: tuple[BatchProfile, ...],
    options: BuildOptions,
    timing: bytes = b"",
) -> BuiltPlan:
    """Build the plan of an exported graph on the current GPU. Takes minutes.

    Args:
        timing: of an earlier build on such a GPU; may be empty.

    Raises:
        PlanBuildError: TensorRT does not take the graph, or an option, or cannot build it; why, it said.
    """
    logger = python_logger(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # what its bindings make of a constructor that failed
        raise PlanBuildError(f"TensorRT cannot use the GPU: {logger.last_error or error}") from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, graph, logger)
    config = builder.create_builder_config()
    _configure(trt, config, options)
    for profile in profiles:
        _add_profile(builder, config, interface, profile)
    if not config.set_timing_cache(config.create_timing_cache(timing), ignore_mismatch=False):
        _log.warning("the timing cache is of another GPU or TensorRT; begun anew")
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise PlanBuildError(f"TensorRT could not build the plan: {logger.last_error or 'no reason given'}")
    buffers: tuple[Any, Any] = built, config.get_timing_cache().serialize()  # as types, they are none
    return BuiltPlan(memoryview(buffers[0]), memoryview(buffers[1]))


def _parse(trt: TensorRtBuilder, network: Network, graph: Path, logger: Logger) -> None:
    parser = trt.OnnxParser(network, logger)
    # from the file, not from bytes: the graph's weights are in a file beside it
    if parser.parse_from_file(str(graph)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    said = [f"{one.node_operator()} {one.node_name()!r}: {one.desc().strip()}" for one in errors]
    why = "; ".join(said) or logger.last_error or "no reason given"
    raise PlanBuildError(f"TensorRT {trt.__version__} does not take {graph}: {why}")


def _configure(trt: TensorRtBuilder, config: Config, options: BuildOptions) -> None:
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and too coarse for the gate's float32
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatibility != "none":
        name = options.hardware_compatibility.upper()
        level = getattr(trt.HardwareCompatibilityLevel, name, None)
        if level is None:
            raise PlanBuildError(
                f"TensorRT {trt.__version__} has no hardware compatibility {options.hardware_compatibility!r}"
            )
        config.hardware_compatibility_level = level
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb * _MIB)
    if options.detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED


def _add_profile(builder: Builder, config: Config, interface: Interface, pictures: BatchProfile) -> None:
    profile = builder.create_optimization_profile()
    for name, three in shapes_of(interface, pictures).items():
        profile.set_shape(name, *three)
    if config.add_optimization_profile(profile) < 0:
        raise PlanBuildError(f"TensorRT refuses the profile {pictures}")
