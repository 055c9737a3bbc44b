"""Plans of ONNX folders: built once, kept in a cache, opened, and built again if need be.

The cache has a folder for each plan, named by all that decides what is built. Builders of one plan take its
lock, so that the second finds what the first built. One that is no longer as it was built is built again.
When the cache has more bytes than it may, the plans that were not opened for longest go.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, field
from hashlib import sha256
from pathlib import Path
from typing import Final

import torch
from filelock import FileLock, Timeout
from pydantic import PositiveInt

from secondlook.edge.validation import validated
from secondlook.engine.cache_folder import cache_folder
from secondlook.engine.devices import on_device
from secondlook.engine.encoders.manifest import EncoderManifest, graph_file, read_manifest
from secondlook.engine.encoders.plan_manifest import (
    PLAN_MANIFEST_FILE,
    TIMING_FILE,
    BuildOptions,
    Machine,
    PlanManifest,
    plan_file,
    read_plan_manifest,
)
from secondlook.engine.encoders.plan_store import RebuildNeededError, plans_in, readable
from secondlook.engine.encoders.profiles import BatchProfile
from secondlook.engine.encoders.tensorrt import OpenedPlan, open_plan
from secondlook.engine.encoders.tensorrt_api import load_builder, this_machine
from secondlook.engine.errors import InvalidEncoderError
from secondlook.export.building import build_plan
from secondlook.export.errors import PlanBuildError
from secondlook.export.folder import check_output, replacing, whole_folder

__all__ = ["DEFAULT_PROFILES", "PlanCache", "PlanRequest", "make_plan", "open_or_rebuild", "plan_key"]

DEFAULT_PROFILES = (BatchProfile(1, 2, 8),)

_PARTIAL: Final = ".partial"
_log = logging.getLogger(__name__)


@validated(frozen=True)
class PlanRequest:
    """A plan that is wanted.

    Attributes:
        graph: the folder of an exported encoder.
        profiles, options: what it is built for, and how.
        output: a folder of its own for it, outside the cache; None: the cache alone.
    """

    graph: Path
    profiles: tuple[BatchProfile, ...] = DEFAULT_PROFILES
    options: BuildOptions = field(default_factory=BuildOptions)
    output: Path | None = None


@validated(frozen=True)
class PlanCache:
    """Plans in a folder.

    Attributes:
        folder: of the cache; made when a plan is.
        most_bytes: of all plans in it together.
    """

    folder: Path
    most_bytes: PositiveInt = 16 * 2**30

    def get_or_build(self, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of a plan; one that is not there yet, or is damaged, is built.

        Args:
            build: writes a plan's files into a folder, its manifest last.

        Raises:
            PlanBuildError: the cache cannot be written, or the plan alone is larger than it may be.
        """
        found = self.folder / key
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._lock(key):
                if not _is_whole(found):  # another may have built it while this one waited
                    with replacing(found) as partial:
                        build(partial)
                        self._make_room(_size(partial), key)
        except OSError as error:
            raise PlanBuildError(
                f"cannot keep a plan in {self.folder}: {error.strerror or error}; nothing was left behind"
            ) from error
        return found

    def _lock(self, key: str = "", *, blocking: bool = True) -> FileLock:
        return FileLock(self.folder / f"{key}.lock", blocking=blocking)

    def _make_room(self, wanted: int, key: str) -> None:
        """Give up plans, and what killed builders of others left: one that is being built is locked."""
        if wanted > self.most_bytes:
            raise PlanBuildError(
                f"the plan has {wanted} bytes, and the cache in {self.folder} may hold {self.most_bytes}; "
                "allow more with --cache-gb"
            )
        with self._lock():
            for partial in self.folder.glob(f".*{_PARTIAL}"):
                other = partial.stem.removeprefix(".")
                if other != key:
                    try:
                        with self._lock(other, blocking=False):
                            shutil.rmtree(partial, ignore_errors=True)  # or its builder just did
                    except Timeout:
                        continue
            room = self.most_bytes - wanted
            for path in plans_in(self.folder):
                if path.name == key:
                    continue  # the damaged one, which is about to be replaced
                room -= _size(path)
                if room < 0:
                    _log.info("gave up the plan %s, which was not used for longest", path.name)
                    # Renamed first: whoever looks meanwhile sees none, not half of one; and the next builder
                    # removes the rest if this one is killed.
                    hidden = path.with_name(f".{path.name}.old{_PARTIAL}")
                    shutil.rmtree(path.rename(hidden))


def plan_key(
    encoder: EncoderManifest,
    tensorrt: str,
    machine: Machine,
    profiles: tuple[BatchProfile, ...],
    options: BuildOptions,
) -> str:
    """The name of a plan: a digest of all that decides what is built.

    That is the graphs' and their weights' digests, how long their axes get, TensorRT's version, the GPU with
    its compute capability and driver, the profiles and the options.
    """
    graphs = {name: asdict(interface) for name, interface in encoder.graphs.items()}
    parts = [encoder.files, graphs, tensorrt, asdict(machine), list(map(str, profiles)), asdict(options)]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def make_plan(request: PlanRequest, device: torch.device, cache: PlanCache | None = None) -> Path:
    """The plan's folder in the cache, built on this GPU if it is not there yet; a copy is in `output`.

    Raises:
        RuntimeMissingError: the full TensorRT is not installed.
        DeviceError: not a CUDA GPU.
        InvalidEncoderError: the ONNX folder is not as it was exported.
        PlanBuildError: TensorRT cannot build it, or it cannot be kept.
        OutputError: `output` is something else, or cannot be written; the cache has the plan all the same.
    """
    trt = load_builder()
    machine = this_machine(device)
    encoder = read_manifest(request.graph)
    if encoder.dtype == "int8":
        raise PlanBuildError(
            f"{request.graph} is quantised for CPUs (int8); export it with --dtype float16 for TensorRT"
        )
    encoder.check_files(request.graph)
    if request.output is not None:
        check_output(request.output, overwrite=True, manifest=PLAN_MANIFEST_FILE)
    cache = cache or PlanCache(cache_folder("plans"))

    def build(folder: Path) -> None:
        _log.info("building a plan for %s; it takes minutes", machine)
        timing = _timing(cache, trt.__version__, machine)
        digests = dict[str, str]()
        for name, interface in encoder.graphs.items():
            file = request.graph / graph_file(name)
            with on_device(device):
                built = build_plan(trt, file, interface, request.profiles, request.options, timing)
            timing = bytes(built.timing)
            for path, content in (
                (folder / plan_file(name), built.plan),
                (folder / TIMING_FILE, built.timing),
            ):
                path.write_bytes(content)
                digests[path.name] = sha256(content).hexdigest()
        PlanManifest(encoder, trt.__version__, machine, request.profiles, request.options, digests).write(
            folder
        )

    key = plan_key(encoder, trt.__version__, machine, request.profiles, request.options)
    found = cache.get_or_build(key, build)
    if request.output is not None:
        with whole_folder(request.output, overwrite=True, manifest=PLAN_MANIFEST_FILE) as copied:
            shutil.copytree(found, copied, dirs_exist_ok=True)
    return found


def open_or_rebuild(folder: Path, device: torch.device, *, trusted: bool = False) -> OpenedPlan:
    """`secondlook.engine.encoders.tensorrt.open_plan`, and a new plan where none runs here.

    That is built from the ONNX folder beside it, with the same profiles and options.

    Raises:
        RebuildNeededError: it needs to be built, and the ONNX folder was not found.
        SecondLookError: see `open_plan` and `make_plan`.
    """
    try:
        return open_plan(folder, device, trusted=trusted)
    except RebuildNeededError as error:
        if error.graph is None:
            raise RebuildNeededError(f"{error}; --rebuild found no ONNX folder beside it", None) from error
        _log.info("%s", error)
        output = folder if (folder / PLAN_MANIFEST_FILE).is_file() else None
        request = PlanRequest(error.graph, error.profiles or DEFAULT_PROFILES, error.options, output)
        return open_plan(make_plan(request, device), device, trusted=trusted)


def _is_whole(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        manifest = read_plan_manifest(folder)
        for name in manifest.encoder.graphs:
            manifest.read_plan(folder, name)
    except InvalidEncoderError as error:
        _log.warning("built again: %s", error)
        return False
    return True


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _timing(cache: PlanCache, tensorrt: str, machine: Machine) -> bytes:
    """What the last build on such a machine learnt; empty if there was none."""
    for folder in plans_in(cache.folder):
        manifest = readable(read_plan_manifest, folder)
        if manifest is not None and (manifest.tensorrt, manifest.machine) == (tensorrt, machine):
            try:
                timing = (folder / TIMING_FILE).read_bytes()
            except FileNotFoundError:  # another process gave it up just now
                continue
            if sha256(timing).hexdigest() == manifest.files.get(TIMING_FILE):
                return timing
            _log.warning("passed over: %s is not what was written", folder / TIMING_FILE)
    return b""
