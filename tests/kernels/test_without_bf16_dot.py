"""Products of bfloat16 as they are computed where a processor has no instructions for them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from secondlook.kernels import build

SUITES = ("layer_rows", "blocked_linear", "decoder_layers", "attention", "elementwise")


@pytest.mark.slow
def test_all_of_it_holds_there_too(tmp_path: Path) -> None:
    """In a process of its own, whose library is compiled without them."""
    compiler = build.build_parameters("cpu").compiler
    environment = {
        **os.environ,
        "CXX": shlex.join((*compiler, "-DSECONDLOOK_WITHOUT_BF16_DOT")),
        "SECONDLOOK_CACHE": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    suites = [Path(__file__).with_name(f"test_{name}.py") for name in SUITES]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *suites]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert list(tmp_path.rglob("*.so"))
