"""How the operators are compiled: one function of parameters, for the wheel and for the first use alike.

The sources are written on torch's stable ABI, register themselves when loaded, and need no Python headers, so
that a compiler makes each library by itself, as many sources at once as there are cores: `secondlook_cpu`
with the C++ compiler, `secondlook_cuda` with nvcc.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

import torch

from secondlook.kernels.errors import BuildError, CompilerMissingError

__all__ = [
    "ARCHITECTURES",
    "ARCHITECTURES_SUFFIX",
    "BACKENDS",
    "Backend",
    "BuildParameters",
    "build_parameters",
    "compile_library",
    "known_architectures",
    "serves",
]

Backend = Literal["cpu", "cuda"]
BACKENDS: Final[tuple[Backend, ...]] = ("cpu", "cuda")

ARCHITECTURES: Final = ("8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "11.0", "12.0")
"""Compute capabilities that are built for, as far as nvcc knows them."""
_JETSONS: Final = ("8.7", "11.0")
"""Their machine code and that of other GPUs of the same major version are not exchangeable."""

ARCHITECTURES_SUFFIX: Final = ".architectures"
"""Of the file beside a wheel's library for CUDA that lists the compute capabilities it was compiled for."""

_MOST_AT_ONCE: Final = 8
_CSRC: Final = Path(__file__).parent / "csrc"
_USUAL_NVCC: Final = Path("/usr/local/cuda/bin/nvcc")
_STABLE_ABI: Final = "-DTORCH_TARGET_VERSION=0x020a000000000000"
"""The oldest torch whose stable ABI is used, 2.10."""


@dataclass(frozen=True)
class BuildParameters:
    """Everything that decides what a library becomes.

    Attributes:
        backend: which of the libraries.
        compiler: the compiler's path, and with what else it is called, as CXX may say.
        arguments: all other arguments but sources and output.
        sources: the files to compile.
        identity: of the compiler, of torch and of the machine's architecture.
        architectures: compute capabilities compiled for, ascending, the last as PTX too; none for "cpu".
    """

    backend: Backend
    compiler: tuple[str, ...]
    arguments: tuple[str, ...]
    sources: tuple[Path, ...]
    identity: tuple[str, ...]
    architectures: tuple[str, ...] = ()

    @property
    def library_name(self) -> str:
        """The library's file name."""
        return f"secondlook_{self.backend}.so"

    def command(self, sources: Sequence[Path], output: Path, *more: str) -> list[str]:
        """The compiler's command line, for one source or for all objects."""
        return [*self.compiler, *more, *map(str, sources), "-o", str(output), *self.arguments]

    def key(self) -> str:
        """A digest of the parameters and of every file under csrc: equal keys, equal libraries."""
        digest = hashlib.sha256()
        for text in (self.backend, *self.compiler, *self.arguments, *self.identity):
            digest.update(text.encode() + b"\0")
        for path in sorted(_CSRC.rglob("*")):
            if path.is_file():
                digest.update(str(path.relative_to(_CSRC)).encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()[:20]


def build_parameters(
    backend: Backend, architectures: Sequence[str] | None = None, extra: Sequence[str] = ()
) -> BuildParameters:
    """The parameters of one library on this machine.

    Args:
        backend: "cpu" or "cuda".
        architectures: compute capabilities, such as "9.0"; by default every one of `ARCHITECTURES` that nvcc
            knows. Only for "cuda".
        extra: more arguments for the compiler, such as `-Werror`.

    Raises:
        CompilerMissingError: no compiler, or an nvcc of another CUDA than torch's, or one that knows none of
            the architectures.
    """
    root = Path(torch.__file__).parent
    include = ("-isystem", str(root / "include"), "-I", str(_CSRC), _STABLE_ABI)
    link: tuple[str, ...] = ("-L", str(root / "lib"), "-ltorch_cpu", "-lc10")
    flags: tuple[str, ...]
    known: tuple[str, ...] = ()
    if backend == "cpu":
        compiler = _cpp_compiler()
        versions = [_version_of(compiler)]
        flags = ("-O3", "-std=c++20", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread")
    else:
        nvcc = _nvcc()
        compiler = (nvcc,)
        versions = [_version_of(compiler), _host_compiler_of(nvcc)]
        _check_cuda(nvcc, versions[0])
        known = _known(nvcc, ARCHITECTURES if architectures is None else architectures)
        flags = (
            *("-O3", "-std=c++20", "-shared", "-DUSE_CUDA", "-lineinfo"),
            *("-Xcompiler", "-fPIC,-fvisibility=hidden"),
            *_targets(known),
        )
        if (root / "lib" / "libtorch_cuda.so").exists():  # a torch for CPUs: compiles, for others to load
            link = (*link, "-ltorch_cuda", "-lc10_cuda")
    pattern = "*.cpp" if backend == "cpu" else "*.cu"
    return BuildParameters(
        backend=backend,
        compiler=compiler,
        arguments=(*flags, *include, *link, *extra),
        sources=tuple(sorted((_CSRC / backend).glob(pattern))),
        identity=(*versions, torch.__version__, platform.machine(), _own_version()),
        architectures=known,
    )


def compile_library(parameters: BuildParameters, output: Path) -> str:
    """Compile into `output`, which appears only when it is whole; returns what the compiler said.

    Raises:
        BuildError: with the compiler's output.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        objects = [Path(folder, f"{source.stem}.o") for source in parameters.sources]
        commands = [
            parameters.command([source], made, "-c")
            for source, made in zip(parameters.sources, objects, strict=True)
        ]
        started = _Started()
        with ThreadPoolExecutor(_at_once()) as pool:
            running = [
                pool.submit(_compiled, command, made, started)
                for command, made in zip(commands, objects, strict=True)
            ]
            try:
                said = [one.result() for one in running]
            except BaseException:  # a failure's others are in vain, and Ctrl-C need not reach them
                for one in running:
                    one.cancel()
                started.end()
                raise
        partial = Path(folder, output.name)
        said.append(_compiled(parameters.command(objects, partial), partial, started))
        partial.replace(output)
    return "\n".join(filter(None, said))


class _Started:
    """Compilers that were started, and end when the others' work is in vain."""

    def __init__(self) -> None:
        self._processes = list[subprocess.Popen[str]]()
        self._ended = threading.Event()

    def add(self, process: subprocess.Popen[str]) -> None:
        self._processes.append(process)
        if self._ended.is_set():
            process.kill()

    def end(self) -> None:
        self._ended.set()
        for process in self._processes:
            process.kill()


def _compiled(command: list[str], output: Path, started: _Started) -> str:
    """What a compiler said when it wrote `output`."""
    with _can_run(command):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
    started.add(process)
    said = process.communicate()[0].strip()
    if process.returncode != 0:
        raise BuildError(f"{shlex.join(command)}\nfailed ({process.returncode}):\n{said}")
    if not output.exists():
        raise BuildError(
            f"{shlex.join(command)}\nwrote no file, though it did not fail: is {_named(command[0])} a "
            f"compiler?\n{said}"
        )
    return said


def _at_once() -> int:
    """Compilers at once: a core and about a GiB each, so that they are few on the largest machine, too."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_AT_ONCE)


def known_architectures(nvcc: str, wanted: Sequence[str] = ARCHITECTURES) -> list[str]:
    """Those of the wanted compute capabilities that an nvcc can compile for."""
    listed = _run([nvcc, "--list-gpu-arch"]).stdout
    return [name for name in wanted if f"compute_{name.replace('.', '')}" in listed.split()]


def serves(architectures: Sequence[str], gpu: str) -> bool:
    """Whether a library built for these architectures, ascending, runs on a GPU of this compute capability.

    Machine code runs on the same major version from its minor one on; PTX, of the last, on anything newer.
    """

    def number(name: str) -> tuple[int, ...]:
        return tuple(int(part) for part in name.split("."))

    if gpu in architectures or (architectures and number(architectures[-1]) <= number(gpu)):
        return True
    older = [name for name in architectures if name not in _JETSONS and number(name) < number(gpu)]
    return gpu not in _JETSONS and any(number(name)[0] == number(gpu)[0] for name in older)


def _known(nvcc: str, wanted: Sequence[str]) -> tuple[str, ...]:
    known = known_architectures(nvcc, wanted)
    if not known:
        raise CompilerMissingError(
            f"{nvcc} compiles for none of {', '.join(wanted)}; install a CUDA toolkit that fits the GPU"
        )
    return tuple(known)


def _targets(known: Sequence[str]) -> list[str]:
    targets = []
    for name in known:
        number = name.replace(".", "")
        targets += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
    last = known[-1].replace(".", "")
    return [*targets, "-gencode", f"arch=compute_{last},code=compute_{last}"]


def _cpp_compiler() -> tuple[str, ...]:
    asked = os.environ.get("CXX", "")
    try:
        words = shlex.split(asked)
    except ValueError as error:
        raise CompilerMissingError(f"CXX is {asked!r}, which is not a command line: {error}") from error
    for name in words[:1] or ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return (found, *words[1:])
    raise CompilerMissingError(
        f"no C++ compiler ({asked or 'c++, g++ or clang++'}) was found; install one, such as g++ 12 or "
        "newer, or name it in CXX"
    )


def _nvcc() -> str:
    home = os.environ.get("CUDA_HOME")
    found = shutil.which("nvcc", path=str(Path(home) / "bin")) if home else shutil.which("nvcc")
    if found or _USUAL_NVCC.exists():
        return found or str(_USUAL_NVCC)
    raise CompilerMissingError("no nvcc was found; install the CUDA toolkit, or name its folder in CUDA_HOME")


def _check_cuda(nvcc: str, version_text: str) -> None:
    """Refuse an nvcc whose libraries are not those that torch loads. A torch for CPUs has none."""
    release = re.search(r"release ((\d+)[\d.]*)", version_text)
    wanted = torch.version.cuda
    if release is not None and wanted is not None and release[2] != wanted.split(".")[0]:
        raise CompilerMissingError(
            f"{nvcc} is of CUDA {release[1]}, but this PyTorch is for CUDA {wanted}; install that CUDA "
            "toolkit, and name its folder in CUDA_HOME"
        )


def _run(command: Sequence[str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    """What a compiler said to `text`; in whatever encoding, for what is not the locale's is replaced."""
    with _can_run(command):
        return subprocess.run(
            command, input=text, capture_output=True, text=True, errors="replace", check=False
        )


@contextmanager
def _can_run(command: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # such as a text without #!
        raise CompilerMissingError(
            f"the compiler {_named(command[0])} cannot be run: {error.strerror or error}"
        ) from error


def _named(program: str) -> str:
    """A compiler, and the variable that names it, if one does."""
    variable = "CUDA_HOME" if Path(program).name == "nvcc" else "CXX"
    asked = os.environ.get(variable)
    return f"{program} ({variable}={asked})" if asked else program


@lru_cache
def _version_of(compiler: tuple[str, ...]) -> str:
    return _run([*compiler, "--version"]).stdout


@lru_cache
def _host_compiler_of(nvcc: str) -> str:
    """The version of the C++ compiler that nvcc would call, which only nvcc knows."""
    return _run([nvcc, "-E", "-x", "cu", "-"], "__VERSION__").stdout.strip().rpartition("\n")[2]


def _own_version() -> str:
    try:
        return version("secondlook")
    except PackageNotFoundError:  # run from a source tree, which is not installed
        return "source"
