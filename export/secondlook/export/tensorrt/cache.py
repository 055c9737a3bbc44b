"""Built engines, kept: a folder for each, named by all that decides what is built.

A folder appears whole or not at all: it is written under another name and renamed last. Builders of one
engine take its lock, so that the second finds what the first built. One that is no longer as it was built is
built again. When the cache has more bytes than it may, the engines that were not opened for longest go.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from secondlook.engine.encoders.engine_manifest import BuildOptions, Machine, read_engine_manifest
from secondlook.engine.encoders.engine_store import engines_in
from secondlook.engine.encoders.manifest import EncoderManifest
from secondlook.engine.encoders.profiles import BatchProfile
from secondlook.engine.errors import InvalidEncoderError
from secondlook.export.tensorrt.errors import EngineBuildError

__all__ = ["DEFAULT_BYTES", "EngineCache", "engine_key"]

DEFAULT_BYTES: Final = 16 * 2**30

_PARTIAL: Final = ".partial"
_OLD: Final = ".old"
_LOCK: Final = ".lock"
_log = logging.getLogger(__name__)


def engine_key(
    encoder: EncoderManifest,
    tensorrt: str,
    machine: Machine,
    profiles: tuple[BatchProfile, ...],
    options: BuildOptions,
) -> str:
    """The name of an engine: a digest of all that decides what is built.

    That is the graph's and its weights' digests, TensorRT's version, the GPU with its compute capability and
    driver, the profiles and the options.
    """
    parts = [
        encoder.files,
        tensorrt,
        asdict(machine),
        [str(profile) for profile in profiles],
        asdict(options),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class EngineCache:
    """Engines in a folder.

    Attributes:
        folder: of the cache; made when an engine is.
        most_bytes: of all engines in it together.
    """

    folder: Path
    most_bytes: int = DEFAULT_BYTES

    def __post_init__(self) -> None:
        if self.most_bytes < 1:
            raise EngineBuildError(f"the cache of engines must hold at least 1 byte, not {self.most_bytes}")

    def get_or_build(self, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of an engine; one that is not there yet, or is damaged, is built.

        Args:
            build: writes an engine's files into a folder, its manifest last.

        Raises:
            EngineBuildError: the cache cannot be written, or the engine alone is larger than it may be.
        """
        found, partial = self.folder / key, self.folder / f"{key}{_PARTIAL}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with FileLock(self.folder / f"{key}{_LOCK}"):
                if not _is_whole(found):  # another may have built it while this one waited
                    shutil.rmtree(partial, ignore_errors=True)  # of a builder that was killed
                    try:
                        partial.mkdir()
                        build(partial)
                        self._keep(partial, found)
                    finally:
                        shutil.rmtree(partial, ignore_errors=True)
        except OSError as error:
            raise EngineBuildError(
                f"cannot keep an engine in {self.folder}: {error.strerror or error}; nothing was left behind"
            ) from error
        return found

    def _keep(self, partial: Path, found: Path) -> None:
        """Make room for an engine and give it its name; under one lock, or two at once were too many."""
        wanted = _size(partial)
        if wanted > self.most_bytes:
            raise EngineBuildError(
                f"the engine has {wanted} bytes, and the cache in {self.folder} may hold {self.most_bytes}; "
                "allow more with --cache-gb"
            )
        with FileLock(self.folder / _LOCK):
            self._clear_up(found.name)
            if found.is_dir():
                _give_up(found)  # the damaged one
            room = self.most_bytes - wanted
            for path in engines_in(self.folder):
                room -= _size(path)
                if room < 0:
                    _log.info("gave up the engine %s, which was not used for longest", path.name)
                    _give_up(path)
            partial.rename(found)

    def _clear_up(self, but: str) -> None:
        """Remove what killed builders of other engines left; one that is being built is locked."""
        for old in self.folder.glob(f"*{_OLD}"):
            shutil.rmtree(old)
        for partial in self.folder.glob(f"*{_PARTIAL}"):
            if partial.stem != but:
                try:
                    with FileLock(self.folder / f"{partial.stem}{_LOCK}", blocking=False):
                        shutil.rmtree(partial, ignore_errors=True)  # or its builder just did
                except Timeout:
                    continue


def _is_whole(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        read_engine_manifest(folder).read_plan(folder)
    except InvalidEncoderError as error:
        _log.warning("built again: %s", error)
        return False
    return True


def _give_up(folder: Path) -> None:
    """Remove an engine, renamed first: whoever looks meanwhile sees none, not half of one."""
    shutil.rmtree(folder.rename(folder.with_suffix(_OLD)))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
