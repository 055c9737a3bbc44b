"""What the commands of `secondlook bench` have in common."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from secondlook.benchmarks.reports import make_room, write_report

__all__ = [
    "DTypeOption",
    "DeviceOption",
    "NewTokensOption",
    "OutputOption",
    "PresetOption",
    "SeedOption",
    "check_output",
    "tell",
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
