"""What a TensorRT plan is: the file `plan.json` in its folder.

    encoder.plan     TensorRT's plan: machine code and weights; of each graph one, of its name
    timing.cache     how long TensorRT's choices took on this GPU; makes the next build shorter
    plan.json        this; written last, so that a folder without it is none

A plan is an executable artefact. The digests here find a truncated or mixed-up file, not an attacker, who
would write them anew: whoever opens a folder from elsewhere must trust where it came from.

Knows files; neither TensorRT nor tensors.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, PositiveInt

from secondlook.edge.errors import SettingsError
from secondlook.edge.validation import validated
from secondlook.engine.encoders.manifest import EncoderManifest, check_names, read_json, write_json
from secondlook.engine.encoders.profiles import BatchProfile
from secondlook.engine.errors import InvalidEncoderError

__all__ = [
    "PLAN_MANIFEST_FILE",
    "TIMING_FILE",
    "BuildOptions",
    "HardwareCompatibility",
    "Machine",
    "PlanManifest",
    "plan_file",
    "read_plan_manifest",
]

TIMING_FILE: Final = "timing.cache"
PLAN_MANIFEST_FILE: Final = "plan.json"

HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]
"""What other GPUs a plan runs on; the names are those of TensorRT's HardwareCompatibilityLevel."""


@validated(frozen=True)
class Machine:
    """Where a plan is built or run.

    Attributes:
        gpu: its name, as CUDA tells it.
        compute_capability: such as "8.9".
        driver: version of the NVIDIA driver. Part of the cache's key; plans are not refused for it.
    """

    gpu: str
    compute_capability: str
    driver: str

    def __str__(self) -> str:
        return f"{self.gpu} (compute capability {self.compute_capability})"


@validated(frozen=True)
class BuildOptions:
    """How a plan is built. Precision is not here: it is in the graph.

    Attributes:
        workspace_mb: MiB that a layer may use beside its tensors; None: all of the GPU's memory.
        hardware_compatibility: other GPUs that it shall run on; such plans can be slower, for they do
            without what only one GPU has.
        version_compatible: for later TensorRT versions, and `tensorrt_lean`, too; such plans can be slower,
            and carry the lean runtime: code of the host, which opening them executes.
        detailed: keep the layers' parameters in the plan, for `secondlook inspect`; it then tells anyone.
        tf32: let float32 products round their factors to ten bits of mantissa; faster, and not within the
            gate's tolerance of float32.
    """

    workspace_mb: PositiveInt | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    detailed: bool = False
    tf32: bool = False

    def flags(self) -> str:
        """These options as `secondlook build` takes them, each after a space; the defaults are left out."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        return "".join(
            f" --{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            for name, value in given.items()
            if value != getattr(BuildOptions, name)
        )


@validated(frozen=True)
class PlanManifest:
    """What a plan was built from, for what, and with what.

    Attributes:
        encoder: the manifest of the ONNX folder that it was built from; its parity is the graph's.
        tensorrt: version that built it.
        machine: that it was built on.
        profiles: pictures of a pass, in the plans' order.
        options: how it was built.
        files: SHA-256 of every other file in the folder, in hexadecimal, by name.
        format: of this manifest itself.
    """

    encoder: EncoderManifest
    tensorrt: str
    machine: Machine
    profiles: Annotated[tuple[BatchProfile, ...], Field(min_length=1)]
    options: BuildOptions
    files: dict[str, str]
    format: Literal[2] = 2

    def __post_init__(self) -> None:
        check_names(self.files)
        if lacking := set(map(plan_file, self.encoder.graphs)) - self.files.keys():
            raise SettingsError(f"a plan's manifest must have the digest of {', '.join(sorted(lacking))}")

    def write(self, folder: Path) -> None:
        """Write the file and wait until it is on the disk.

        Raises:
            OSError: it cannot be written.
        """
        write_json(self, folder / PLAN_MANIFEST_FILE)

    def read_plan(self, folder: Path, graph: str) -> bytes:
        """TensorRT's plan of a graph: the very bytes whose digest was compared.

        Raises:
            InvalidEncoderError: the file is missing, cannot be read, or is another.
        """
        path = folder / plan_file(graph)
        if path.exists() and not path.is_file():  # a device may be endless
            raise InvalidEncoderError(f"{path} is no regular file; build the plan again")
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise InvalidEncoderError(
                f"{path} cannot be read ({error.strerror}); build the plan again"
            ) from error
        found, expected = hashlib.sha256(plan).hexdigest(), self.files[path.name]
        if found != expected:
            raise InvalidEncoderError(
                f"{path} is truncated or not what was built: {len(plan)} bytes with SHA-256 {found[:16]}..., "
                f"the manifest says {expected[:16]}...; build the plan again"
            )
        return plan

    def misfits(self, tensorrt: str, machine: Machine) -> list[str]:
        """Why this plan does not run here, each naming both sides; nothing if it does."""
        found = []
        later = self.options.version_compatible
        if _numbers(tensorrt) < _numbers(self.tensorrt) if later else tensorrt != self.tensorrt:
            built = f"{self.tensorrt} or later" if later else self.tensorrt
            found.append(f"it was built with TensorRT {built}, here is {tensorrt}")
        if not self._runs_on(machine):
            found.append(f"it was built on {self.machine}, here is {machine}")
        return found

    def _runs_on(self, machine: Machine) -> bool:
        built = self.machine
        match self.options.hardware_compatibility:
            case "ampere_plus":
                return _numbers(machine.compute_capability) >= (8, 0)
            case "same_compute_capability":
                return machine.compute_capability == built.compute_capability
            case _:
                return (machine.gpu, machine.compute_capability) == (built.gpu, built.compute_capability)


def plan_file(graph: str) -> str:
    """The file of a graph's plan."""
    return f"{graph}.plan"


def read_plan_manifest(folder: Path) -> PlanManifest:
    """The manifest of a plan; the plan is not compared yet.

    Raises:
        InvalidEncoderError: there is no such folder or manifest, or it is not one of this version.
    """
    path = folder / PLAN_MANIFEST_FILE
    if not path.is_file():
        raise InvalidEncoderError(f"{folder} is no TensorRT plan: no {path}; make one with: secondlook build")
    return read_json(PlanManifest, path)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
