"""Making an engine of an ONNX folder, and opening one, built again if need be."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import torch

from secondlook.engine.devices import on_device
from secondlook.engine.encoders.engine_manifest import (
    ENGINE_MANIFEST_FILE,
    PLAN_FILE,
    TIMING_FILE,
    BuildOptions,
    EngineManifest,
    Machine,
)
from secondlook.engine.encoders.engine_store import RebuildNeededError, cache_folder, engines_in, readable
from secondlook.engine.encoders.manifest import EncoderManifest, read_manifest
from secondlook.engine.encoders.profiles import BatchProfile
from secondlook.engine.encoders.tensorrt import TensorRtVisionEncoder, open_engine
from secondlook.engine.encoders.tensorrt_api import Library, this_machine
from secondlook.export.folder import check_output, whole_folder
from secondlook.export.tensorrt.build import Plan, build_plan
from secondlook.export.tensorrt.builder_api import TensorRtBuilder, load_builder
from secondlook.export.tensorrt.cache import EngineCache, engine_key
from secondlook.export.tensorrt.errors import EngineBuildError

__all__ = ["DEFAULT_PROFILES", "EngineRequest", "make_engine", "open_or_rebuild"]

DEFAULT_PROFILES = (BatchProfile(1, 2, 8),)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineRequest:
    """An engine that is wanted.

    Attributes:
        graph: the folder of an exported encoder.
        profiles, options: what it is built for, and how.
        output: a folder of its own for it, outside the cache; None: the cache alone.
    """

    graph: Path
    profiles: tuple[BatchProfile, ...] = DEFAULT_PROFILES
    options: BuildOptions = field(default_factory=BuildOptions)
    output: Path | None = None


def make_engine(request: EngineRequest, device: torch.device, cache: EngineCache | None = None) -> Path:
    """The engine's folder in the cache, built on this GPU if it is not there yet; a copy is in `output`.

    Raises:
        RuntimeMissingError: the full TensorRT is not installed.
        DeviceError: not a CUDA GPU.
        InvalidEncoderError: the ONNX folder is not as it was exported.
        EngineBuildError: TensorRT cannot build it, or it cannot be kept.
        OutputError: `output` is something else, or cannot be written; the cache has the engine all the same.
    """
    trt = load_builder()
    machine = this_machine(device)
    encoder = read_manifest(request.graph)
    if encoder.dtype == "int8":
        raise EngineBuildError(
            f"{request.graph} is quantised for CPUs (int8); export it with --dtype float16 for TensorRT"
        )
    encoder.check_files(request.graph)
    if request.output is not None:
        check_output(request.output, overwrite=True, manifest=ENGINE_MANIFEST_FILE)
    cache = cache or EngineCache(cache_folder())
    key = engine_key(encoder, trt.__version__, machine, request.profiles, request.options)

    def build(folder: Path) -> None:
        _log.info("building an engine for %s; it takes minutes", machine)
        timing = _timing(cache, trt.__version__, machine)
        with on_device(device):
            plan = build_plan(trt, request.graph, encoder, request.profiles, request.options, timing)
        _write(folder, plan, _described(request, trt, encoder, machine))

    found = cache.get_or_build(key, build)
    if request.output is not None:
        with whole_folder(request.output, overwrite=True, manifest=ENGINE_MANIFEST_FILE) as copied:
            shutil.copytree(found, copied, dirs_exist_ok=True)
    return found


def open_or_rebuild(
    folder: Path,
    device: torch.device,
    *,
    trusted: bool = False,
    library: Library = "auto",
    rebuild: bool = False,
    cache: EngineCache | None = None,
) -> TensorRtVisionEncoder:
    """`secondlook.engine.encoders.tensorrt.open_engine`, and a new engine where none runs here.

    With `rebuild`, an engine that does not run here, or is not there, is built from the ONNX folder beside
    it, with the same profiles and options.

    Raises:
        RebuildNeededError: it needs to be built, and `rebuild` is false or the ONNX folder was not found.
        SecondLookError: see `open_engine` and `make_engine`.
    """
    try:
        return open_engine(folder, device, trusted=trusted, library=library)
    except RebuildNeededError as error:
        if not rebuild:
            raise
        if error.graph is None:
            raise RebuildNeededError(f"{error}; --rebuild found no ONNX folder beside it", None) from error
        output = folder if (folder / ENGINE_MANIFEST_FILE).is_file() else None
        request = EngineRequest(error.graph, error.profiles or DEFAULT_PROFILES, error.options, output)
        _log.info("%s", error)
        return open_engine(make_engine(request, device, cache), device, trusted=trusted, library=library)


def _described(
    request: EngineRequest, trt: TensorRtBuilder, encoder: EncoderManifest, machine: Machine
) -> Callable[[dict[str, str]], EngineManifest]:
    return lambda files: EngineManifest(
        encoder, trt.__version__, machine, request.profiles, request.options, files
    )


def _write(folder: Path, plan: Plan, described: Callable[[dict[str, str]], EngineManifest]) -> None:
    files = {}
    for name, content in ((PLAN_FILE, plan.engine), (TIMING_FILE, plan.timing)):
        with (folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        files[name] = sha256(content).hexdigest()
    described(files).write(folder)


def _timing(cache: EngineCache, tensorrt: str, machine: Machine) -> bytes:
    """What the last build on such a machine learnt; empty if there was none."""
    for folder in engines_in(cache.folder):
        manifest = readable(folder)
        if manifest is not None and (manifest.tensorrt, manifest.machine) == (tensorrt, machine):
            try:
                timing = (folder / TIMING_FILE).read_bytes()
            except FileNotFoundError:  # another process gave it up just now
                continue
            if sha256(timing).hexdigest() == manifest.files.get(TIMING_FILE):
                return timing
            _log.warning("passed over: %s is not what was written", folder / TIMING_FILE)
    return b""
