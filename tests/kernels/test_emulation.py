"""The CUDA sources without a GPU: compiled by g++ with an emulation of CUDA, and run.

Shown: what is computed, shared arrays' bounds, alignment, barriers and warps, races, the bindings. Not shown:
nvcc's code, a GPU's expf, other reads out of bounds, streams, graphs, times.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from repository import ROOT, package
from secondlook.kernels.build import build_parameters

HERE = Path(__file__).parent
EMULATION = HERE / "emulation"
OPERATORS = (
    *("attention_row", "decode_attention", "find_region", "quantised_linear", "record_tokens"),
    "token_statistics",
)
FLAGS = ("-std=c++20", "-O1", "-g1", "-fPIC", "-fno-strict-aliasing", "-DEMULATED_ARCH", "-pthread")
THREADS = "-fsanitize=thread"
# No library of a sanitizer: what is out of bounds ends the process.
BOUNDS = ("-fsanitize=bounds,alignment", "-fsanitize-undefined-trap-on-error")

FAULTS = {
    "a fence orders one lane, not its warp": ("TOKENS", "token_statistics.cuh", "__syncwarp();", ""),
    "a row's block has no barrier": (
        "ROW",
        "attention_row.cuh",
        "partial[warp][thread] = sum;\n  __syncthreads();",
        "partial[warp][thread] = sum;",
    ),
    "one buffer instead of two in turns": ("DECODE", "decode_attention.cuh", "sums[h % 2]", "sums[0]"),
    "sums of warps that may not be there yet": (
        "LINEAR",
        "quantised_linear.cuh",
        "__syncthreads();",
        "",
    ),
    "a warp's lanes part before they exchange": (
        "REGION",
        "find_region.cuh",
        "if (thread >= kWarp) continue;",
        "if (thread > 0) continue;",
    ),
    "a block's threads decide each for itself": (
        "TWO_ROWS",
        "token_statistics.cuh",
        "__syncthreads_and(sink.wants(row)) != 0",
        "sink.wants(row)",
    ),
}
"""The program that must find it, the file, what is there, and what is planted."""

pytestmark = pytest.mark.slow


def run(*command: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("SECONDLOOK_KERNELS", None)
    words = [str(word) for word in command]
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", check=False
    )


def compiled(*arguments: object, folder: Path) -> None:
    done = run("g++", *FLAGS, "-I", EMULATION, "-I", ".", *arguments, folder=folder)
    assert done.returncode == 0, done.stderr


def emulated(folder: Path, file: str = "", there: str = "", planted: str = "") -> Path:
    """The sources in a new folder as g++ takes them, with a fault if one is named."""
    shutil.copytree(package("kernels") / "csrc", folder)
    for name in ("cuda_bf16.h", "cuda_fp16.h"):
        (folder / name).write_text("#include <cuda_runtime.h>\n")
    for path in [folder / "find_region.h", *(folder / "cuda").iterdir()]:
        text = path.read_text()
        if path.name == file:
            assert text.count(there) == 1
            text = text.replace(there, planted)
        launches = text.count("<<<")
        text, found = re.subn(
            r"(\w+<[^<>;{}]*>)<<<(.+?)>>>\(", r"::emulation::configured(\1, \2)(", text, flags=re.DOTALL
        )
        assert found == launches
        for cuda, ours in (
            ("LIBRARY_IMPL(secondlook, CUDA, m)", "LIBRARY_IMPL(secondlook, CPU, m)"),
            ("__shared__ alignas(16)", "alignas(16) __shared__"),
            (
                "extern __shared__ Cell region_shared_table[]",
                "inline __shared__ Cell region_shared_table[5888]",
            ),
            ("__CUDA_ARCH__", "EMULATED_ARCH"),  # torch's headers would look at it too
        ):
            text = text.replace(cuda, ours)
        path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def runtimes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the emulation's own part, `plain.o` and, for ThreadSanitizer, `races.o`."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++, which compiles the emulation")
    folder = tmp_path_factory.mktemp("runtimes")
    for name, defined in (("plain.o", ()), ("races.o", ("-DRACES",))):
        compiled("-O2", *defined, "-c", EMULATION / "runtime.cpp", "-o", name, folder=folder)
    return folder


@pytest.fixture(scope="module")
def sanitizer(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("sanitizer")
    (folder / "nothing.cpp").write_text("int main() {}\n")
    for command in (("g++", THREADS, "nothing.cpp", "-o", "nothing"), (folder / "nothing",)):
        done = run(*command, folder=folder)
        if done.returncode != 0:
            said = (done.stdout + done.stderr).strip().splitlines() or ["it said nothing"]
            pytest.skip(f"g++ has no ThreadSanitizer that runs here: {said[-1]}")


@pytest.fixture(scope="module")
def library_folder(runtimes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the CUDA bindings and kernels as the library of the CPU."""
    folder = emulated(tmp_path_factory.mktemp("library") / "csrc")
    arguments = build_parameters("cpu").arguments
    headers = [word for word in arguments if word.startswith("-DTORCH")]
    headers += ["-isystem", arguments[arguments.index("-isystem") + 1]]

    def compile_one(operator: str) -> None:
        source = ("-x", "c++", "-include", "cuda_runtime.h", "-c", f"cuda/{operator}.cu")
        compiled(*BOUNDS, "-DUSE_CUDA", *headers, *source, "-o", f"{operator}.o", folder=folder)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, OPERATORS))
    objects = [*(f"{operator}.o" for operator in OPERATORS), runtimes / "plain.o"]
    link = ("-L", Path(torch.__file__).parent / "lib", "-ltorch_cpu", "-lc10", "-o", "secondlook_cpu.so")
    compiled("-shared", "-Wl,-Bsymbolic", *objects, *link, folder=folder)
    return folder


def outcome(program: str, runtimes: Path, folder: Path, *fault: str) -> subprocess.CompletedProcess[str]:
    """What a program of races.cpp comes to, with the sources in a new folder."""
    emulated(folder, *fault)
    chosen = ("plain.o",) if program == "TWO_ROWS" else ("races.o", THREADS)
    source = (f"-D{program}", EMULATION / "races.cpp", runtimes / chosen[0], *chosen[1:])
    compiled(*source, "-o", program, folder=folder)
    return run(folder / program)


def test_the_operators_own_tests_pass(library_folder: Path) -> None:
    """But for those of how PyTorch knows them, and of values that the CPU's bindings alone look at."""
    code = (
        "import pathlib, sys, pytest; from secondlook.kernels import library; "
        "library._WHEEL = pathlib.Path(sys.argv[1]); assert library.status('cpu').source == 'wheel'; "
        "sys.modules['secondlook.kernels.quantised_linear']._BACKEND = 'cpu'; "
        "sys.exit(pytest.main(sys.argv[2:]))"
    )
    chosen = ("-m", "not needs_cuda", "-k", "not on_the_cpu and not compiles and not opcheck")
    files = [HERE / f"test_{operator}.py" for operator in OPERATORS]
    options = ("-q", "-x", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=60")
    done = run(sys.executable, "-c", code, library_folder, *options, *chosen, *files, folder=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 600


@pytest.mark.usefixtures("sanitizer")
@pytest.mark.parametrize("program", ["TOKENS", "ROW", "DECODE", "LINEAR", "REGION"])
def test_no_thread_races_another(program: str, runtimes: Path, tmp_path: Path) -> None:
    done = outcome(program, runtimes, tmp_path / "csrc")
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_rows_on_one_slot_neither_hang_nor_write_past_its_end(runtimes: Path, tmp_path: Path) -> None:
    done = outcome("TWO_ROWS", runtimes, tmp_path / "csrc")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("sanitizer")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, runtimes: Path, tmp_path: Path) -> None:
    program, *change = FAULTS[fault]
    done = outcome(program, runtimes, tmp_path / "csrc", *change)
    # Without ThreadSanitizer the fault must happen, and on a busy machine threads may take turns in which
    # nothing goes wrong.
    for _ in range(30 if program == "TWO_ROWS" else 0):
        if done.returncode != 0:
            break
        done = run(tmp_path / "csrc" / program)
    assert done.returncode != 0
    assert "data race" in done.stderr or "emulation: " in done.stderr, done.stdout + done.stderr
