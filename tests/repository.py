"""Where the parts are and how they are built, for the tests that look at the repository itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("edge", "kernels", "engine", "export", "benchmarks")
"""The source roots; part `p` is the package `secondlook.p` in the folder `p/secondlook/p`."""


def package(part: str) -> Path:
    """The folder of a part's package."""
    return ROOT / part / "secondlook" / part


def modules(folder: Path) -> list[Path]:
    """Every Python file under a folder."""
    return sorted(folder.rglob("*.py"))


def copy_sources(to: Path) -> None:
    """What the distributions are built from, so that building leaves nothing in the repository."""
    built = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist")
    for part in PARTS:
        shutil.copytree(ROOT / part, to / part, ignore=built)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, to)


def build(source: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python -m build` into `source/dist`, with the installed setuptools: no network."""
    command = [sys.executable, "-m", "build", "--no-isolation", *options, str(source)]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
