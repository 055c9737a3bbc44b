"""What a measurement ran on: printed beside every figure."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from secondlook.edge.versions import installed_version
from secondlook.engine.devices import hardware_name

PACKAGES = ("torch", "transformers", "onnxruntime", "openvino", "pillow", "numpy", "secondlook")
"""Whose versions a measurement depends on."""

_SOURCES = tuple(f":/{root}/*.py" for root in ("edge", "kernels", "engine", "export", "benchmarks"))


def environment(device: str, dtype: str) -> dict[str, Any]:
    """Device, dtype, versions and commit, for JSON.

    "+" behind the commit: with changes, or modules that it lacks; None: no checkout. Ask before a long run,
    for what it runs was loaded then.
    """
    return {
        "device": hardware_name(torch.device(device)),
        "dtype": dtype,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: installed_version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _commit() -> str | None:
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # not a checkout that merely surrounds us
        changes = _git("status", "--porcelain", "--untracked-files=no")
        changes += _git("ls-files", "--others", "--exclude-standard", *_SOURCES)
        return _git("rev-parse", "--short=12", "HEAD") + ("+" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()
