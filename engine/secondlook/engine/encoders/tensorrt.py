"""The vision encoder in TensorRT.

What a plan takes and gives passes through buffers that are allocated once, whose addresses TensorRT is told
once; a run reads and writes their beginnings. Everything goes on torch's current stream and nothing waits for
it. Of encoders that take a batch of equal pictures, runs of one and of two are CUDA graphs.

Untested on hardware until a test marked `needs_tensorrt` ran: without a GPU, tests show that what is called
exists in TensorRT 10 and 11, and in which order it is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from secondlook.engine.decode.graphs import capture
from secondlook.engine.devices import on_device
from secondlook.engine.encoders.plan_manifest import PlanManifest, read_plan_manifest
from secondlook.engine.encoders.plan_store import check_runs_here, check_trusted, find_plan, note_opened
from secondlook.engine.encoders.profiles import BatchProfile, lengths_of, runs_of, shapes_of
from secondlook.engine.encoders.tensorrt_api import (
    Context,
    Logger,
    Plan,
    Runtime,
    TensorRt,
    load_tensorrt,
    python_logger,
    this_machine,
)
from secondlook.engine.errors import EncoderError, InvalidEncoderError, RuntimeMissingError
from secondlook.engine.models.vision import Interface, TensorType, sized

__all__ = [
    "CAPTURED",
    "LoadedPlan",
    "OpenedPlan",
    "TensorRtVisionEncoder",
    "current_stream",
    "deserialize",
    "open_plan",
]

CAPTURED: Final = (2, 1)
"""Pictures of the runs that are CUDA graphs: one look's, and a second look's with its first."""

_DTYPES: Final = {
    "float32": "FLOAT",
    "float16": "HALF",
    "bfloat16": "BF16",
    "int64": "INT64",
    "bool": "BOOL",
}
"""TensorRT's names of torch's dtypes."""


def open_plan(folder: Path, device: torch.device, *, trusted: bool = False) -> OpenedPlan:
    """The encoder of a plan's folder, or of an ONNX folder that a plan in the cache was built from.

    Args:
        trusted: open a plan from outside the cache too. Opening a plan can execute anything in it.

    Raises:
        RuntimeMissingError: TensorRT is not installed, or is the lean one and the plan is not for it.
        DeviceError: not a CUDA GPU.
        InvalidEncoderError: the folder is not as it was built.
        UntrustedPlanError: it is from outside the cache, and not `trusted`.
        RebuildNeededError: it was built for another GPU or TensorRT, or no plan was built yet.
    """
    trt = load_tensorrt()
    machine = this_machine(device)
    lean = trt.__name__ == "tensorrt_lean"
    found = find_plan(folder, trt.__version__, machine, lean=lean)
    manifest = read_plan_manifest(found)
    check_runs_here(found, manifest, trt.__version__, machine)
    check_trusted(found, trusted)
    if lean and not manifest.options.version_compatible:
        raise RuntimeMissingError(
            f"tensorrt_lean runs only version-compatible plans, and {found} is none: build it with "
            "--version-compatible, or pip install 'secondlook[tensorrt]'"
        )
    with on_device(device):
        encoders = tuple(
            TensorRtVisionEncoder(
                deserialize(trt, manifest, manifest.read_plan(found, name)),
                interface,
                manifest.profiles,
                device,
            )
            for name, interface in manifest.encoder.graphs.items()
        )
    note_opened(found)
    return OpenedPlan(manifest, encoders)


@dataclass(frozen=True)
class OpenedPlan:
    """An encoder's plans, one for each of its graphs, in their order."""

    manifest: PlanManifest
    encoders: tuple[TensorRtVisionEncoder, ...]


@dataclass(frozen=True)
class LoadedPlan:
    """A plan, with the runtime and the logger that must outlive it."""

    plan: Plan
    runtime: Runtime
    logger: Logger


def deserialize(trt: TensorRt, manifest: PlanManifest, plan: bytes) -> LoadedPlan:
    """A plan's bytes as something to run on the current GPU. This executes the plan.

    Raises:
        InvalidEncoderError: TensorRT does not take it.
    """
    logger = python_logger(trt)
    try:
        runtime = trt.Runtime(logger)
    except TypeError as error:  # what its bindings make of a constructor that failed
        raise EncoderError(f"TensorRT cannot use the GPU: {logger.last_error or error}") from error
    # The lean runtime that such plans carry is code of the host.
    runtime.engine_host_code_allowed = manifest.options.version_compatible
    opened = runtime.deserialize_cuda_engine(plan)
    if opened is None:
        raise InvalidEncoderError(
            f"TensorRT {trt.__version__} does not take the plan of {manifest.encoder.model!r}: "
            f"{logger.last_error or 'it gave no reason'}; build it again with secondlook build"
        )
    return LoadedPlan(opened, runtime, logger)


class TensorRtVisionEncoder:
    """A deserialised plan as a `secondlook.engine.models.vision.VisionEncoder`.

    A batch of equal pictures may be any that the profiles' sizes add up to: more than the largest are several
    runs. Calls belong on one thread and one stream.
    """

    def __init__(
        self,
        loaded: LoadedPlan,
        interface: Interface,
        profiles: tuple[BatchProfile, ...],
        device: torch.device,
    ) -> None:
        _check_tensors(loaded.plan, interface, profiles)
        self._loaded, self._interface, self._profiles = loaded, interface, profiles
        self._device = device
        self._ranges = [lengths_of(interface, profile)[::2] for profile in profiles]
        most = {name: max(high[name] for _, high in self._ranges) for name in interface.axes}
        self._buffers = {
            one.name: torch.zeros(
                math.prod(sized(one.shape, most)), dtype=getattr(torch, one.dtype), device=device
            )
            for one in (*interface.inputs, *interface.outputs)
        }
        self._contexts = [self._context(index) for index in range(len(profiles))]
        self._batched = {one.shape[:1] for one in interface.inputs} == {tuple(interface.axes)}
        pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._graphs = {
            size: self._captured(size, pool)
            for size in CAPTURED
            if self._batched and any(size in profile for profile in profiles)
        }

    @torch.inference_mode()
    def __call__(self, *given: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the plan makes of its inputs.

        Raises:
            EncoderError: it takes others, no profile is for so many pictures, or TensorRT could not run.
        """
        lengths = self._interface.lengths(given)
        with on_device(self._device):
            if self._batched:
                found = self._in_batches(given, *lengths.values())
            else:
                found = self._made(given, lengths, self._profile(lengths))
        return found[0] if len(found) == 1 else tuple(found)

    def passes(self, pictures: int) -> list[int]:
        """Of how many pictures each pass is; see `secondlook.engine.models.vision.VisionEncoder`."""
        return [run.batch for run in runs_of(pictures, self._profiles)]

    def _in_batches(self, given: Sequence[Tensor], batch: int) -> list[Tensor]:
        (name,), dtype = self._interface.axes, given[0].dtype
        found = [
            given[0].new_empty(sized(one.shape, {name: batch}), dtype=dtype)
            for one in self._interface.outputs
        ]
        first = 0
        for run in runs_of(batch, self._profiles):
            rows = slice(first, first + run.batch)
            made = self._made([one[rows] for one in given], {name: run.batch}, run.profile)
            for whole, part in zip(found, made, strict=True):
                whole[rows] = part
            first += run.batch
        return found

    def _profile(self, lengths: dict[str, int]) -> int:
        for index, (low, high) in enumerate(self._ranges):
            if all(low[name] <= length <= high[name] for name, length in lengths.items()):
                return index
        told = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise EncoderError(
            f"the plan has no profile for {told}: it was built for {', '.join(map(str, self._profiles))} "
            "pictures; build it again with another --batch"
        )

    def _made(self, given: Sequence[Tensor], lengths: dict[str, int], profile: int) -> list[Tensor]:
        for one, tensor in zip(self._interface.inputs, given, strict=True):
            self._part(one, lengths).copy_(tensor)
        replay = self._graphs.get(next(iter(lengths.values()))) if self._batched else None
        if replay is not None:
            replay()
        else:
            context = self._contexts[profile]
            self._shape(context, lengths)
            self._execute(context)
        dtype = given[0].dtype
        return [self._part(one, lengths).to(dtype, copy=True) for one in self._interface.outputs]

    def _part(self, one: TensorType, lengths: dict[str, int]) -> Tensor:
        """Of a buffer, what a pass reads or writes."""
        shape = sized(one.shape, lengths)
        return self._buffers[one.name][: math.prod(shape)].view(shape)

    def _captured(self, size: int, pool: Any) -> Callable[[], None]:
        """A run of this size as a graph: on a context of its own, whose shapes never change again."""
        (run,) = runs_of(size, self._profiles)
        context = self._context(run.profile)
        self._shape(context, dict.fromkeys(self._interface.axes, size))
        try:
            return capture(lambda: self._execute(context), pool)
        except RuntimeError as error:  # torch's, which hides what was raised within
            raise self._failed(f"could not be captured in a CUDA graph ({error})") from error

    def _context(self, profile: int) -> Context:
        context = self._loaded.plan.create_execution_context()
        if context is None:
            raise self._failed("cannot make a context, perhaps for want of the GPU's memory")
        if not context.set_optimization_profile_async(profile, current_stream(self._device)):
            raise self._failed(f"refuses its profile {profile}")
        for name, buffer in self._buffers.items():
            if not context.set_tensor_address(name, buffer.data_ptr()):
                raise self._failed(f"refuses the address of {name!r}")
        return context

    def _shape(self, context: Context, lengths: dict[str, int]) -> None:
        for one in self._interface.inputs:
            shape = sized(one.shape, lengths)
            if not context.set_input_shape(one.name, shape):
                raise self._failed(f"refuses the shape {list(shape)} of {one.name!r}")

    def _execute(self, context: Context) -> None:
        # asked for anew: while a graph is captured, another stream is the current one
        if not context.execute_async_v3(current_stream(self._device)):
            raise self._failed("could not run")

    def _failed(self, what: str) -> EncoderError:
        return EncoderError(
            f"TensorRT's plan {what}: {self._loaded.logger.last_error or 'it gave no reason'}"
        )


def current_stream(device: torch.device) -> int:
    """The handle of torch's current stream on a GPU."""
    handle: int = torch.cuda.current_stream(device).cuda_stream
    return handle


def _check_tensors(plan: Plan, interface: Interface, profiles: Sequence[BatchProfile]) -> None:
    """Compare the plan's inputs, outputs and profiles with its manifest.

    Raises:
        InvalidEncoderError: they differ; the message has both.
    """
    kinds = {**dict.fromkeys(interface.inputs, "INPUT"), **dict.fromkeys(interface.outputs, "OUTPUT")}
    declared = {one.name: one for one in kinds}
    expected = [(one.name, mode, _DTYPES[one.dtype], _shape(one, one.shape)) for one, mode in kinds.items()]
    names = [plan.get_tensor_name(index) for index in range(plan.num_io_tensors)]
    found = [
        (
            name,
            plan.get_tensor_mode(name).name,
            plan.get_tensor_dtype(name).name,
            _shape(declared.get(name), plan.get_tensor_shape(name)),
        )
        for name in names
    ]
    if sorted(found) != sorted(expected):
        raise InvalidEncoderError(
            f"the plan has the tensors {sorted(found)}, its manifest says {sorted(expected)}"
        )
    built = [
        {
            one.name: tuple(map(tuple, plan.get_tensor_profile_shape(one.name, index)))
            for one in interface.inputs
        }
        for index in range(plan.num_optimization_profiles)
    ]
    said = [shapes_of(interface, profile) for profile in profiles]
    if built != said:
        raise InvalidEncoderError(f"the plan is for the shapes {built}, its manifest says {said}")


def _shape(one: TensorType | None, shape: Sequence[int | str]) -> tuple[int | str, ...]:
    """With -1 at dynamic axes, whose lengths are for the profiles to tell."""
    if one is None or len(shape) != len(one.shape):
        return tuple(shape)
    return tuple(
        -1 if isinstance(named, str) else length for named, length in zip(one.shape, shape, strict=True)
    )
