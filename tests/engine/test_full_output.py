"""Commands whose standard output has no room."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize(
    ("module", "arguments", "unbuffered"),
    [
        ("engine.cli", ["kernels"], ""),
        ("engine.cli", ["ask", "--help"], "1"),
        ("edge.cli", ["--version"], ""),
        ("edge.cli", ["--version"], "1"),
    ],
)
def test_a_full_standard_output_is_one_line(module: str, arguments: list[str], unbuffered: str) -> None:
    code = f"import sys; from secondlook.{module} import main; sys.argv[1:] = {arguments}; main()"
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "SECONDLOOK_KERNELS": "reference"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    told = done.stderr.splitlines()[-1:]
    assert (done.returncode, told) == (1, ["error: cannot write the answer: No space left on device"])
    assert "Traceback" not in done.stderr
