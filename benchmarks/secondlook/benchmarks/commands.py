"""What the commands of `secondlook bench` have in common."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from secondlook.edge.errors import SecondLookError

__all__ = [
    "DTypeOption",
    "DeviceOption",
    "NewTokensOption",
    "OutputOption",
    "PresetOption",
    "ReportError",
    "SeedOption",
    "check_output",
    "make_room",
    "tell",
    "write_report",
]

PresetOption = Annotated[
    Literal["small", "llava-1.5-7b", "llava-1.5-13b", "demo"],
    typer.Option(help="A model's sizes, with random weights; demo is the embedded model."),
]
DTypeOption = Annotated[
    Literal["float32", "bfloat16", "float16"], typer.Option(help="Of weights and activations.")
]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to measure.")]
NewTokensOption = Annotated[int, typer.Option(min=1, max=1024, help="Tokens of each answer.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of weights, pictures and questions.")]
OutputOption = Annotated[Path | None, typer.Option(help="Write the JSON object here too.")]


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


def check_output(output: Path | None) -> None:
    """Refuse, before the long work, a file that cannot be written after it.

    Raises:
        ReportError: it cannot.
    """
    if output is not None:
        make_room(output)


def tell(table: Callable[[dict[str, Any]], str], report: dict[str, Any], output: Path | None) -> None:
    """Keep a report if it is to be kept; print it, as a table and, in the last line, as JSON.

    Raises:
        ReportError: it could not be written; it was printed all the same.
    """
    try:
        if output is not None:
            write_report(report, output)
    finally:  # what was measured is not lost, whatever fails
        try:
            typer.echo(table(report))
        finally:
            typer.echo(json.dumps(report))
