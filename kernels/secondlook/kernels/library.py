"""Which implementation serves: a library from the wheel, one built at first use, or the references.

Nothing is looked for, built or loaded at import. A library is built once for each set of parameters, into a
cache that processes and threads may share: the first takes a lock, the others find the marker that is written
last.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import torch
from filelock import FileLock

from secondlook.kernels.build import (
    ARCHITECTURES_SUFFIX,
    Backend,
    BuildParameters,
    build_parameters,
    compile_library,
    serves,
)
from secondlook.kernels.errors import BuildError, KernelError

__all__ = [
    "Mode",
    "Status",
    "build_library",
    "cache_folder",
    "has_kernels",
    "mode",
    "set_mode",
    "status",
    "uses_reference",
]

Mode = Literal["auto", "reference"]
"""auto: compiled operators where they can be had; reference: plain PyTorch everywhere."""

_log = logging.getLogger(__name__)

_MODE_VARIABLE: Final = "SECONDLOOK_KERNELS"
_CACHE_VARIABLE: Final = "SECONDLOOK_CACHE"
_WHEEL: Final = Path(__file__).parent / "lib"
_MARKER: Final = "complete"
_NOT_USERS: Final = tuple(str(Path(file).parent) for file in (__file__, torch.__file__))


@dataclass(frozen=True)
class Status:
    """What serves one backend.

    Attributes:
        backend: "cpu" or "cuda".
        source: where the implementation is from.
        path: of the library; None for the references.
        reason: why it is this one, in one line.
    """

    backend: Backend
    source: Literal["wheel", "cache", "reference"]
    path: Path | None
    reason: str


class _State:
    """What this process has loaded; there is one dispatcher a process, so one state."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.loaded: dict[Backend, Status] = {}
        self.mode: Mode | None = None


_state = _State()


def _renew_lock() -> None:
    _state.lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # a child has no thread that could release the lock
    os.register_at_fork(after_in_child=_renew_lock)


def mode() -> Mode:
    """The mode in use: that of `set_mode`, else of the variable SECONDLOOK_KERNELS, else auto.

    Raises:
        KernelError: the variable holds none of the modes.
    """
    if _state.mode is not None:
        return _state.mode
    return _checked(os.environ.get(_MODE_VARIABLE) or "auto")


def set_mode(chosen: Mode | None) -> None:
    """Choose the mode for this process; None: the environment's again.

    Graphs of `torch.compile` call the operators in `torch.ops.secondlook` themselves, where a library that is
    loaded serves always: there, "reference" holds if it was chosen before the first call of any operator.

    Raises:
        KernelError: not a mode.
    """
    _state.mode = None if chosen is None else _checked(chosen)


def uses_reference(device: torch.device) -> bool:
    """Whether operators on `device` run as references. In mode auto the first call may build, which takes
    time."""
    if device.type not in ("cpu", "cuda") or mode() == "reference":
        return True
    backend: Backend = "cuda" if device.type == "cuda" else "cpu"
    found = _state.loaded.get(backend)  # the usual case, without the lock
    return (found or status(backend)).source == "reference"


def has_kernels(tensor: torch.Tensor) -> bool:
    """Whether those operators that are compiled for the CPU alone, in float32 and bfloat16, take such a
    tensor."""
    fits = tensor.is_cpu and tensor.dtype in (torch.float32, torch.bfloat16)
    return fits and not uses_reference(tensor.device)


def status(backend: Backend) -> Status:
    """Load the backend's library, building it if need be; warns, once, when the references must serve."""
    if mode() == "reference":
        return Status(backend, "reference", None, f"asked for by set_mode or {_MODE_VARIABLE}")
    with _state.lock:
        found = _state.loaded.get(backend)
        if found is None:
            found = _load(backend)
            _state.loaded[backend] = found
            if found.source == "reference":
                warnings.warn(
                    f"slower reference kernels serve on {backend}: {found.reason}",
                    RuntimeWarning,
                    stacklevel=_level_of_user(),
                )
    return found


def build_library(parameters: BuildParameters) -> Path:
    """The library of these parameters in the cache, compiled if it is not there yet.

    Raises:
        BuildError: the compiler failed, or the cache cannot be written.
    """
    folder = cache_folder() / parameters.key()
    library, marker = folder / parameters.library_name, folder / _MARKER
    if marker.exists() and library.exists():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if not (marker.exists() and library.exists()):  # another may have built while this one waited
                _log.info("building the %s operators, once; it takes a while", parameters.backend)
                compile_library(parameters, library)
                marker.touch()
    except OSError as error:
        raise BuildError(
            f"cannot build in {folder}: {error}; name another folder in {_CACHE_VARIABLE}"
        ) from error
    return library


def cache_folder() -> Path:
    """SECONDLOOK_CACHE, or `secondlook/kernels` in the user's cache folder."""
    named = os.environ.get(_CACHE_VARIABLE)
    if named:
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secondlook" / "kernels"
    except RuntimeError as error:
        raise KernelError(f"there is no home folder; name a folder in {_CACHE_VARIABLE}") from error


def _load(backend: Backend) -> Status:
    refused = ""
    try:
        gpus = _present() if backend == "cuda" else None
        in_wheel = _WHEEL / f"secondlook_{backend}.so"
        if in_wheel.exists():
            try:
                _check_architectures(in_wheel, gpus or [])
                _register(in_wheel)
                return Status(backend, "wheel", in_wheel, "it came with the package")
            except (KernelError, OSError) as error:
                refused = f"; the one that came with the package: {_one_line(error)}"
        library = build_library(build_parameters(backend, gpus))
        _register(library)
    except (KernelError, OSError) as error:
        return Status(backend, "reference", None, _one_line(error) + refused)
    return Status(backend, "cache", library, f"it was built here{refused}")


def _check_architectures(library: Path, gpus: list[str]) -> None:
    """Refuse a library of the wheel that has no code for one of the GPUs; the wheel lists what it has."""
    for gpu in gpus:
        built = library.with_suffix(ARCHITECTURES_SUFFIX).read_text().split()
        if not serves(built, gpu):
            raise KernelError(f"it has code for {', '.join(built)}, but the GPU is {gpu}")


def _register(library: Path) -> None:
    torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]  # untyped in torch


def _present() -> list[str]:
    """The compute capabilities of this machine's GPUs."""
    found = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    if not found:
        raise KernelError("torch sees no CUDA GPU")
    return [f"{major}.{minor}" for major, minor in sorted(found)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _level_of_user() -> int:
    """The nearest caller outside this package and torch, as the `stacklevel` of a warning by our caller."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_USERS):
        level, frame = level + 1, frame.f_back
    return level


def _checked(chosen: str) -> Mode:
    for known in get_args(Mode):
        if chosen == known:
            return chosen  # type: ignore[return-value]  # it is one of the modes
    raise KernelError(f"the kernels' mode must be one of {', '.join(get_args(Mode))}, not {chosen!r}")
