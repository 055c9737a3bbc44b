"""What Schemathesis finds of an interface that describes itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from properties import examples

__all__ = ["CHECKS", "check_described", "schemathesis"]

schemathesis = pytest.importorskip("schemathesis")  # it has no version for Python 3.10

CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_headers_conformance,
    schemathesis.checks.response_schema_conformance,
]
NOT_SAID = "positive_data_acceptance"
"""A check left out: JSON Schema cannot say what fields mean for each other, nor what is a whole JPEG."""


def check_described(url: str, folder: Path, *options: str) -> None:
    """Every request that the description lets one think of is answered as it says, and by no server error."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
    command += ["--generation-deterministic", f"--max-examples={examples(20)}", "--continue-on-failure"]
    command += [f"--exclude-checks={NOT_SAID}", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
