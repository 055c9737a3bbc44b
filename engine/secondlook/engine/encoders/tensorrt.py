"""The vision encoder in TensorRT.

Pictures and features pass through two buffers that are allocated once, whose addresses TensorRT is told
once; a run reads and writes their first rows. Everything goes on torch's current stream and nothing waits for
it. Runs of one and of two pictures are CUDA graphs.

Untested on hardware until a test marked `needs_tensorrt` ran: without a GPU, tests show that what is called
exists in TensorRT 10 and 11, and in which order it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from secondlook.engine.decode.graphs import capture
from secondlook.engine.devices import on_device
from secondlook.engine.encoders.plan_manifest import PlanManifest, read_plan_manifest
from secondlook.engine.encoders.plan_store import check_runs_here, check_trusted, find_plan, note_opened
from secondlook.engine.encoders.profiles import Run, runs_of
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

__all__ = [
    "CAPTURED",
    "LoadedPlan",
    "TensorRtVisionEncoder",
    "current_stream",
    "deserialize",
    "open_plan",
]

CAPTURED: Final = (2, 1)
"""Pictures of the runs that are CUDA graphs: one look's, and a second look's with its first."""

_DTYPES: Final = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}
"""TensorRT's names of torch's dtypes."""


def open_plan(folder: Path, device: torch.device, *, trusted: bool = False) -> TensorRtVisionEncoder:
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
        loaded = deserialize(trt, manifest, manifest.read_plan(found))
        encoder = TensorRtVisionEncoder(loaded, manifest, device)
    note_opened(found)
    return encoder


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
    """A deserialised plan as a vision encoder, see `secondlook.engine.models.base.VisionEncoder`.

    Takes any batch that the profiles' sizes add up to: more pictures than the largest are several runs. Pixel
    values of another dtype than the plan's are converted, and the features to theirs. Calls belong on one
    thread and one stream.

    Attributes:
        manifest: of the plan; `manifest.encoder.check_fits` compares it with a model.
    """

    def __init__(
        self,
        loaded: LoadedPlan,
        manifest: PlanManifest,
        device: torch.device,
    ) -> None:
        _check_tensors(loaded.plan, manifest)
        self.manifest = manifest
        encoder, self._profiles = manifest.encoder, manifest.profiles
        self._loaded, self._device = loaded, device
        self._input, self._output = encoder.input.name, encoder.output.name
        self._picture = (3, encoder.side, encoder.side)
        most = max(profile.maximum for profile in self._profiles)
        taken, given = (getattr(torch, tensor.dtype) for tensor in (encoder.input, encoder.output))
        self._pixels = torch.zeros(most, *self._picture, dtype=taken, device=device)
        self._features = torch.zeros(most, encoder.tokens, encoder.width, dtype=given, device=device)
        self._contexts = [self._context(index) for index in range(len(self._profiles))]
        pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._graphs = {
            size: self._captured(size, pool)
            for size in CAPTURED
            if any(size in profile for profile in self._profiles)
        }

    @torch.inference_mode()
    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Features [n, N, D] of pixel values [n, 3, S, S].

        Raises:
            EncoderError: the profiles' sizes do not add up to n, or TensorRT could not run.
        """
        if tuple(pixel_values.shape[1:]) != self._picture:
            raise EncoderError(
                f"the plan takes pictures [n, {', '.join(map(str, self._picture))}], "
                f"not {list(pixel_values.shape)}"
            )
        features = pixel_values.new_empty(len(pixel_values), *self._features.shape[1:])
        first = 0
        with on_device(self._device):
            for run in runs_of(len(pixel_values), self._profiles):
                rows = slice(first, first + run.batch)
                self._pixels[: run.batch].copy_(pixel_values[rows])
                self._run(run)
                features[rows].copy_(self._features[: run.batch])
                first += run.batch
        return features

    def _run(self, run: Run) -> None:
        replay = self._graphs.get(run.batch)
        if replay is not None:
            replay()
            return
        context = self._contexts[run.profile]
        self._shape(context, run.batch)
        self._execute(context)

    def _captured(self, size: int, pool: Any) -> Callable[[], None]:
        """A run of this size as a graph: on a context of its own, whose shapes never change again."""
        (run,) = runs_of(size, self._profiles)
        context = self._context(run.profile)
        self._shape(context, size)
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
        for name, buffer in ((self._input, self._pixels), (self._output, self._features)):
            if not context.set_tensor_address(name, buffer.data_ptr()):
                raise self._failed(f"refuses the address of {name!r}")
        return context

    def _shape(self, context: Context, batch: int) -> None:
        if not context.set_input_shape(self._input, (batch, *self._picture)):
            raise self._failed(f"refuses a batch of {batch}")

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


def _check_tensors(plan: Plan, manifest: PlanManifest) -> None:
    """Compare the plan's input, output and profiles with its manifest.

    Raises:
        InvalidEncoderError: they differ; the message has both.
    """
    encoder = manifest.encoder
    shapes = {
        encoder.input: ("INPUT", (-1, 3, encoder.side, encoder.side)),
        encoder.output: ("OUTPUT", (-1, encoder.tokens, encoder.width)),
    }
    expected = [(one.name, mode, _DTYPES[one.dtype], shape) for one, (mode, shape) in shapes.items()]
    names = [plan.get_tensor_name(index) for index in range(plan.num_io_tensors)]
    found = sorted((name, *_described(plan, name)) for name in names)
    if found != sorted(expected):
        raise InvalidEncoderError(f"the plan has the tensors {found}, its manifest says {sorted(expected)}")
    profiles = range(plan.num_optimization_profiles)
    shapes_of = [plan.get_tensor_profile_shape(encoder.input.name, index) for index in profiles]
    batches = [tuple(shape[0] for shape in three) for three in shapes_of]
    declared = [(one.minimum, one.optimum, one.maximum) for one in manifest.profiles]
    if batches != declared:
        raise InvalidEncoderError(f"the plan is for batches of {batches}, its manifest says {declared}")


def _described(plan: Plan, name: str) -> tuple[str, str, tuple[int, ...]]:
    mode, dtype, shape = (
        plan.get_tensor_mode(name),
        plan.get_tensor_dtype(name),
        plan.get_tensor_shape(name),
    )
    return mode.name, dtype.name, (-1, *list(shape)[1:])  # the batch is for the profiles to tell
