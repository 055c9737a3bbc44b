"""Everything that needs a GPU, in one go: tests, times, compute-sanitizer. For `make gpu-check`.

    python tests/gpu_check.py --out FOLDER

Runs in the repository's root. The folder gets each step's output (`STEP.log`), `gpu-check.json` (what it ran
on, and how each step ended) and the reports `kernels.json`, `latency.json`, `prefill.json` and `load.json`
of `secondlook bench`, which belong below `benchmarks/results/` for `make figures`; all but the
first are of LLaVA-1.5-7B's sizes in bfloat16. The exit status is the number of steps that failed, 130
after Ctrl-C; what is done by then is kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import torch
import typer

from secondlook.benchmarks.commands import write_report
from secondlook.benchmarks.environment import environment
from secondlook.edge.errors import WriteError
from secondlook.edge.files import check_writable

_SECONDLOOK: Final = (sys.executable, "-c", "from secondlook.engine.cli import main; main()")
_LIBRARY: Final = (
    "from secondlook.kernels import status; found = status('cuda'); print(found); "
    "raise SystemExit(found.source == 'reference')"
)
_MARKED: Final = "needs_cuda or needs_tensorrt"
_TESTS: Final = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", _MARKED)
_REPORTS: Final[dict[str, tuple[str, ...]]] = {
    "kernels": (),
    "latency": ("--preset", "llava-1.5-7b", "--dtype", "bfloat16", "--new-tokens", "20", "--repeats", "10"),
    "prefill": ("--preset", "llava-1.5-7b", "--dtype", "bfloat16"),
    "load": (
        *("--preset", "llava-1.5-7b", "--dtype", "bfloat16", "--new-tokens", "20"),
        *("--edges", "32", "--rounds", "1", "--seconds", "10"),
    ),
}
"""What `secondlook bench` is told, by its command."""
_OUTCOME: Final = "gpu-check.json"
_TIMED_OUT: Final = 124
_NOT_FOUND: Final = 127


class _Step(NamedTuple):
    command: tuple[str, ...]
    environment: Mapping[str, str] = {}


class _Outcome(NamedTuple):
    """How a step ended: 124 after its time, 127 without its program, -N by signal N, else its own status."""

    status: int
    seconds: float


def _steps(out: Path) -> dict[str, _Step]:
    """What is run, in this order; the first builds the operators, so that no other step has to."""
    measured = {
        name: _Step(
            (*_SECONDLOOK, "bench", name, "--device", "cuda", *options, "--output", str(out / f"{name}.json"))
        )
        for name, options in _REPORTS.items()
    }
    return {
        "library": _Step((sys.executable, "-c", _LIBRARY)),
        "tests": _Step((*_TESTS, "tests")),
        **measured,
        # torch's probing of the driver would be reported; the operators check what they call themselves.
        "memcheck": _sanitized("memcheck", "--report-api-errors", "no"),
        "racecheck": _sanitized("racecheck"),
    }


def _sanitized(tool: str, *options: str) -> _Step:
    usual = os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin/compute-sanitizer"
    sanitizer = shutil.which("compute-sanitizer") or usual
    checked = ("--tool", tool, *options, "--error-exitcode", "9", "--target-processes", "all")
    # In torch's cached blocks an access beside a tensor would be one of valid memory.
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return _Step((sanitizer, *checked, *_TESTS, "tests/kernels", "-k", "sanitized"), uncached)


def _run(step: _Step, log_path: Path, limit: float) -> _Outcome:
    """Run a step for at most `limit` seconds, its output in a log; it and its children end with that."""
    environment = {**os.environ, "SECONDLOOK_REQUIRE_CUDA": "1", **step.environment}
    began = time.perf_counter()
    with log_path.open("w", encoding="utf-8") as log:
        try:
            process = subprocess.Popen(
                step.command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        except OSError as error:
            log.write(f"cannot run {step.command[0]}: {error.strerror}\n")
            return _Outcome(_NOT_FOUND, 0.0)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = _TIMED_OUT
            log.write(f"\nended after {limit:.0f} seconds\n")
        finally:
            if process.poll() is None:  # it leads a group of its own: compute-sanitizer has children
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return _Outcome(status, round(time.perf_counter() - began, 1))


def _check(out: Path, minutes: float) -> int:
    """Run every step; the number of those that failed.

    A step may take half of the time that is left, the last one all of it, so that one that hangs leaves some.
    """
    check_writable(out / _OUTCOME)
    for name in _REPORTS:
        (out / f"{name}.json").unlink(missing_ok=True)  # one of an earlier check
    report: dict[str, Any] = {"environment": environment("cuda", "various"), "steps": {}}
    write_report(report, out / _OUTCOME)
    steps = _steps(out)
    deadline = time.monotonic() + 60 * minutes
    failures = 0
    for index, (name, step) in enumerate(steps.items()):
        left = max(0.0, deadline - time.monotonic())
        typer.echo(f"{name}: output in {out / name}.log")
        outcome = _run(step, out / f"{name}.log", left if index == len(steps) - 1 else left / 2)
        report["steps"][name] = outcome._asdict()
        write_report(report, out / _OUTCOME)
        failures += outcome.status != 0
        ended = "passed" if outcome.status == 0 else f"FAILED ({outcome.status})"
        typer.echo(f"{name}: {ended} after {outcome.seconds:.0f} s")
    return failures


def main() -> NoReturn:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all steps together (default 8)")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"error: torch {torch.__version__} sees no CUDA GPU, and everything here needs one")
    try:
        sys.exit(_check(arguments.out, arguments.minutes))
    except WriteError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
