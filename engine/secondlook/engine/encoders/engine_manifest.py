"""What a TensorRT engine is: the file `engine.json` in its folder.

    encoder.engine   TensorRT's plan: machine code and weights
    timing.cache     how long TensorRT's choices took on this GPU; makes the next build shorter
    engine.json      this; written last, so that a folder without it is none

An engine is an executable artefact. The digests here find a truncated or mixed-up file, not an attacker, who
would write them anew: whoever opens a folder from elsewhere must trust where it came from.

Knows files; neither TensorRT nor tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from secondlook.edge.errors import SettingsError
from secondlook.engine.encoders.manifest import EncoderManifest
from secondlook.engine.encoders.profiles import BatchProfile
from secondlook.engine.errors import InvalidEncoderError

__all__ = [
    "ENGINE_MANIFEST_FILE",
    "PLAN_FILE",
    "TIMING_FILE",
    "BuildOptions",
    "EngineManifest",
    "HardwareCompatibility",
    "Machine",
    "read_engine_manifest",
]

PLAN_FILE: Final = "encoder.engine"
TIMING_FILE: Final = "timing.cache"
ENGINE_MANIFEST_FILE: Final = "engine.json"

HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]
"""What other GPUs an engine runs on; the names are those of TensorRT's HardwareCompatibilityLevel."""

_STRICT: Final = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Machine:
    """Where an engine is built or run.

    Attributes:
        gpu: its name, as CUDA tells it.
        compute_capability: such as "8.9".
        driver: version of the NVIDIA driver. Part of the cache's key; engines are not refused for it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    gpu: str
    compute_capability: str
    driver: str

    def __str__(self) -> str:
        return f"{self.gpu} (compute capability {self.compute_capability})"


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built. Precision is not here: it is in the graph.

    Attributes:
        workspace_mb: MiB that a layer may use beside its tensors; None: all of the GPU's memory.
        hardware_compatibility: other GPUs that it shall run on; such engines can be slower, for they do
            without what only one GPU has.
        version_compatible: for later TensorRT versions, and `tensorrt_lean`, too; such engines can be slower,
            and carry the lean runtime: code of the host, which opening them executes.
        detailed: keep the layers' parameters in the engine, for `secondlook inspect`; it then tells anyone.
        tf32: let float32 products round their factors to ten bits of mantissa; faster, and not within the
            gate's tolerance of float32.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    workspace_mb: int | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    detailed: bool = False
    tf32: bool = False

    def __post_init__(self) -> None:
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise SettingsError(f"the workspace must have at least 1 MiB, not {self.workspace_mb}")

    def flags(self) -> str:
        """These options as `secondlook build` takes them, each after a space; the defaults are left out."""
        found = {
            f"--workspace-mb {self.workspace_mb}": self.workspace_mb is not None,
            f"--hardware-compatibility {self.hardware_compatibility}": self.hardware_compatibility != "none",
            "--version-compatible": self.version_compatible,
            "--detailed": self.detailed,
            "--tf32": self.tf32,
        }
        return "".join(f" {flag}" for flag, given in found.items() if given)


@dataclass(frozen=True)
class EngineManifest:
    """What an engine was built from, for what, and with what.

    Attributes:
        encoder: the manifest of the ONNX folder that it was built from; its parity is the graph's.
        tensorrt: version that built it.
        machine: that it was built on.
        profiles: batch sizes, in the engine's order.
        options: how it was built.
        files: SHA-256 of every other file in the folder, in hexadecimal, by name.
        format: of this manifest itself.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    encoder: EncoderManifest
    tensorrt: str
    machine: Machine
    profiles: tuple[BatchProfile, ...]
    options: BuildOptions
    files: dict[str, str]
    format: Literal[1] = 1

    def __post_init__(self) -> None:
        if not self.profiles:
            raise SettingsError("an engine needs at least one profile")
        if PLAN_FILE not in self.files:
            raise SettingsError(f"an engine's manifest must have the digest of {PLAN_FILE}")

    def write(self, folder: Path) -> None:
        """Write the file and wait until it is on the disk.

        Raises:
            OSError: it cannot be written.
        """
        with (folder / ENGINE_MANIFEST_FILE).open("w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(self), indent=4) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_plan(self, folder: Path) -> bytes:
        """TensorRT's plan: the very bytes whose digest was compared.

        Raises:
            InvalidEncoderError: the file is missing, cannot be read, or is another.
        """
        path = folder / PLAN_FILE
        try:
            plan = path.read_bytes()
        except OSError as error:
            raise InvalidEncoderError(
                f"{path} cannot be read ({error.strerror}); build the engine again"
            ) from error
        found, expected = hashlib.sha256(plan).hexdigest(), self.files[PLAN_FILE]
        if found != expected:
            raise InvalidEncoderError(
                f"{path} is truncated or not what was built: {len(plan)} bytes with SHA-256 {found[:16]}..., "
                f"the manifest says {expected[:16]}...; build the engine again"
            )
        return plan

    def misfits(self, tensorrt: str, machine: Machine) -> list[str]:
        """Why this engine does not run here, each naming both sides; nothing if it does."""
        found = []
        if not self._runs_with(tensorrt):
            later = " or later" if self.options.version_compatible else ""
            found.append(f"it was built with TensorRT {self.tensorrt}{later}, here is {tensorrt}")
        if not self._runs_on(machine):
            found.append(f"it was built on {self.machine}, here is {machine}")
        return found

    def _runs_with(self, tensorrt: str) -> bool:
        if self.options.version_compatible:
            return _numbers(tensorrt) >= _numbers(self.tensorrt)
        return tensorrt == self.tensorrt

    def _runs_on(self, machine: Machine) -> bool:
        built = self.machine
        match self.options.hardware_compatibility:
            case "ampere_plus":
                return _numbers(machine.compute_capability) >= (8, 0)
            case "same_compute_capability":
                return machine.compute_capability == built.compute_capability
            case _:
                return (machine.gpu, machine.compute_capability) == (built.gpu, built.compute_capability)


def read_engine_manifest(folder: Path) -> EngineManifest:
    """The manifest of an engine; its plan is not compared yet.

    Raises:
        InvalidEncoderError: there is no such folder or manifest, or it is not one of this version.
    """
    path = folder / ENGINE_MANIFEST_FILE
    if not path.is_file():
        raise InvalidEncoderError(
            f"{folder} is no TensorRT engine: no {path}; make one with: secondlook build"
        )
    try:
        return TypeAdapter(EngineManifest).validate_json(path.read_bytes())
    except (OSError, ValidationError, SettingsError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InvalidEncoderError(f"{path} is no engine's manifest of this version: {reason}") from error


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
