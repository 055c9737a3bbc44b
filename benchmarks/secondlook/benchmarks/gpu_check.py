"""Everything that needs a GPU, in one go: tests, compute-sanitizer, operators' times. For `make gpu-check`.

    python -m secondlook.benchmarks.gpu_check --out FOLDER

Runs in the repository's root and writes each step's output and `operators.json` into the folder; the exit
status is the number of steps that failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

__all__ = ["main"]

_TESTS: Final = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "needs_cuda"]
_OPERATORS: Final = "tests/kernels"


def _steps(out: Path) -> dict[str, list[str]]:
    steps = {"tests": [*_TESTS, "tests"]}
    sanitizer = shutil.which("compute-sanitizer") or "compute-sanitizer"
    for tool in ("memcheck", "racecheck"):
        quick = [*_TESTS, _OPERATORS, "-k", "sanitized"]
        steps[tool] = [
            sanitizer,
            "--tool",
            tool,
            "--error-exitcode",
            "9",
            "--target-processes",
            "all",
            *quick,
        ]
    steps["operators"] = [
        *(sys.executable, "-c", "from secondlook.benchmarks.cli import main; main()"),
        *("bench", "kernels", "--device", "cuda", "--output", str(out / "operators.json")),
    ]
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "SECONDLOOK_REQUIRE_CUDA": "1"}
    outcome = {}
    for name, command in _steps(out).items():
        began = time.perf_counter()
        with (out / f"{name}.log").open("w", encoding="utf-8") as log:
            try:
                status = subprocess.run(
                    command, stdout=log, stderr=subprocess.STDOUT, env=environment
                ).returncode
            except FileNotFoundError:
                status = 127
                log.write(f"{command[0]} is not installed\n")
        outcome[name] = {"status": status, "seconds": round(time.perf_counter() - began, 1)}
        sys.stdout.write(f"{name}: {'passed' if status == 0 else f'FAILED ({status})'}\n")
    (out / "gpu-check.json").write_text(json.dumps(outcome, indent=2) + "\n", encoding="utf-8")
    sys.exit(sum(step["status"] != 0 for step in outcome.values()))


if __name__ == "__main__":
    main()
