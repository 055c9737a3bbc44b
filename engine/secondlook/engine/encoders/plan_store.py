"""Which plan serves here: the cache's folder, and what in it fits.

Plans are built by `secondlook.export`; this only finds them, in `plans` of the user's cache folder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from secondlook.engine.cache_folder import cache_folder
from secondlook.engine.encoders.manifest import MANIFEST_FILE, EncoderManifest, read_manifest
from secondlook.engine.encoders.plan_manifest import (
    PLAN_MANIFEST_FILE,
    BuildOptions,
    Machine,
    PlanManifest,
    read_plan_manifest,
)
from secondlook.engine.encoders.profiles import BatchProfile
from secondlook.engine.errors import EncoderError, EncoderMismatchError, InvalidEncoderError

__all__ = [
    "RebuildNeededError",
    "UntrustedPlanError",
    "check_runs_here",
    "check_trusted",
    "find_plan",
    "note_opened",
    "plans_in",
    "readable",
]

_Manifest = TypeVar("_Manifest")
_log = logging.getLogger(__name__)


class RebuildNeededError(EncoderMismatchError):
    """No plan of an encoder runs on this machine, but one can be built.

    Attributes:
        graph: the ONNX folder to build it from; None: it was not found.
        profiles, options: of the plan that does not run here; none and the defaults if there is no plan.
    """

    def __init__(
        self,
        message: str,
        graph: Path | None = None,
        profiles: tuple[BatchProfile, ...] = (),
        options: BuildOptions = BuildOptions(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__(message)
        self.graph, self.profiles, self.options = graph, profiles, options


class UntrustedPlanError(EncoderError):
    """A plan from outside the cache was to be opened without being asked for by name."""


def find_plan(folder: Path, tensorrt: str, machine: Machine, *, lean: bool = False) -> Path:
    """The plan's folder: this one, or for an ONNX folder the one in the cache that runs here, used last.

    Args:
        lean: for the lean runtime, which runs version-compatible plans only.

    Raises:
        InvalidEncoderError: the folder is neither a plan nor an exported encoder.
        RebuildNeededError: nothing in the cache was built from it for this machine.
    """
    if (folder / PLAN_MANIFEST_FILE).is_file():
        return folder
    if not (folder / MANIFEST_FILE).is_file():
        raise InvalidEncoderError(
            f"{folder} is neither a TensorRT plan nor an exported encoder: it has neither "
            f"{PLAN_MANIFEST_FILE} nor {MANIFEST_FILE}"
        )
    encoder = read_manifest(folder)
    for path in plans_in(cache_folder("plans")):
        manifest = readable(read_plan_manifest, path)
        if manifest is None or not manifest.encoder.is_of(encoder):
            continue
        if not manifest.misfits(tensorrt, machine) and (manifest.options.version_compatible or not lean):
            return path
    raise RebuildNeededError(
        f"no plan was built from {folder} for TensorRT {tensorrt} on {machine} yet; build it: "
        f"secondlook build {folder}{' --version-compatible' if lean else ''}",
        folder,
    )


def plans_in(cache: Path) -> list[Path]:
    """The folders of all plans in a cache, the one opened last first; hidden ones are being written."""
    found = {}
    for path in cache.glob(f"[!.]*/{PLAN_MANIFEST_FILE}"):
        with suppress(FileNotFoundError):  # another process gave it up just now
            found[path.parent] = path.stat().st_mtime
    return sorted(found, key=lambda path: -found[path])


def readable(read: Callable[[Path], _Manifest], folder: Path) -> _Manifest | None:
    """A folder's manifest; None, and a warning, for one that cannot be read, as of another version."""
    try:
        return read(folder)
    except InvalidEncoderError as error:
        _log.warning("passed over: %s", error)
        return None


def check_trusted(folder: Path, trusted: bool) -> None:
    """Refuse a plan from outside the cache that was not asked for by name.

    Raises:
        UntrustedPlanError: it is one.
    """
    if not trusted and not _is_cached(folder):
        raise UntrustedPlanError(
            f"{folder} is not from this user's cache, and a plan is a program: opening it can execute "
            "anything in it; if you know who built it, say --trust-plan, else build your own from the ONNX "
            "folder with secondlook build"
        )


def note_opened(folder: Path) -> None:
    """Remember that a plan of the cache was opened: those that were not for longest are given up first."""
    if _is_cached(folder):
        try:
            os.utime(folder / PLAN_MANIFEST_FILE)
        except OSError as error:  # a cache that is only read, as in a container: nothing is given up there
            _log.info("%s was opened, which cannot be noted: %s", folder, error.strerror)


def _is_cached(folder: Path) -> bool:
    return folder.resolve().is_relative_to(cache_folder("plans").resolve())


def check_runs_here(folder: Path, manifest: PlanManifest, tensorrt: str, machine: Machine) -> None:
    """Compare where a plan was built with where it shall run.

    Raises:
        RebuildNeededError: it does not run here; the message names both sides and the command that rebuilds.
    """
    if not (reasons := manifest.misfits(tensorrt, machine)):
        return
    graph = _find_graph(folder, manifest.encoder)
    output = "" if _is_cached(folder) else f"--output {folder} "  # the cache names its folders itself
    batches = " ".join(f"--batch {profile}" for profile in manifest.profiles)
    raise RebuildNeededError(
        f"the plan in {folder} does not run here: {'; '.join(reasons)}; rebuild it: "
        f"secondlook build {graph or 'ONNX_FOLDER'} {output}{batches}{manifest.options.flags()}",
        graph,
        manifest.profiles,
        manifest.options,
    )


def _find_graph(folder: Path, encoder: EncoderManifest) -> Path | None:
    """The ONNX folder that a plan was built from: its own, the one around it, or another in that."""
    around = folder.resolve().parent
    # glob passes over folders that may not be read
    beside = sorted(path.parent for path in around.glob(f"*/{MANIFEST_FILE}"))
    for place in (folder, around, *beside):
        if (place / MANIFEST_FILE).is_file():
            found = readable(read_manifest, place)
            if found is not None and found.is_of(encoder):
                return place
    return None
