"""Where the parts are, for the tests that look at the repository itself."""

from __future__ import annotations

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
