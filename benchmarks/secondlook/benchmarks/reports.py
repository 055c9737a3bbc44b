"""The files that measurements are kept in: one JSON object each, indented by four."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from secondlook.edge.errors import SecondLookError

__all__ = ["ReportError", "make_room", "write_report"]


class ReportError(SecondLookError):
    """A report cannot be written where it was to be kept."""


def make_room(path: Path) -> None:
    """Make sure, before the long work, that a report can be written; what is there stays as it is.

    Raises:
        ReportError: it cannot.
    """
    new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a", encoding="utf-8").close()
        if new:
            path.unlink()
    except OSError as error:
        raise _error(path, error) from error


def write_report(report: dict[str, Any], path: Path) -> None:
    """Keep a report.

    Raises:
        ReportError: the file cannot be written.
    """
    try:
        path.write_text(json.dumps(report, indent=4) + "\n", encoding="utf-8")
    except OSError as error:
        raise _error(path, error) from error


def _error(path: Path, error: OSError) -> ReportError:
    return ReportError(f"cannot write {path}: {error.strerror}; choose another file")
