"""What the commands of `secondlook bench` have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from secondlook.edge.errors import SecondLookError

Item = TypeVar("Item")

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


_ESTIMATE_SECONDS: Final = 600.0
"""One measurement may take long."""


class ReportError(SecondLookError):
    """A report cannot be written where it was to be kept."""


def make_room(path: Path | None) -> None:
    """Make sure, before the long work, that a report can be written; what is there stays as it is."""
    if path is None:
        return
    new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a", encoding="utf-8").close()
        if new:
            path.unlink()
    except OSError as error:
        raise _error(path, error) from error


def write_report(report: dict[str, Any], path: Path) -> None:
    """Keep a report."""
    try:
        path.write_text(json.dumps(report, indent=4) + "\n", encoding="utf-8")
    except OSError as error:
        raise _error(path, error) from error


def _error(path: Path, error: OSError) -> ReportError:
    return ReportError(f"cannot write {path}: {error.strerror}; choose another file")


def complete_rounds(
    each: Iterable[Item], size: int, go_on: Callable[[], None] = lambda: None
) -> tuple[list[Item], bool]:
    """Collect what is measured, `size` to a round; Ctrl-C ends it.

    Returns: all, and False; or what the complete rounds have, and True.

    Raises:
        KeyboardInterrupt: before one round was complete.
    """
    measured = list[Item]()
    try:
        for one in each:
            measured.append(one)
            go_on()
    except KeyboardInterrupt:
        complete = len(measured) - len(measured) % size
        if not complete:
            raise
        return measured[:complete], True
    return measured, False


def tell(table: Callable[[dict[str, Any]], str], report: dict[str, Any], output: Path | None) -> None:
    """Keep a report if it is to be kept; print it, as a table and, in the last line, as JSON.

    Raises:
        KeyboardInterrupt: at the end, if Ctrl-C ended what was measured.
    """
    try:
        if output is not None:
            write_report(report, output)
    finally:  # what was measured is not lost, whatever fails
        try:
            typer.echo(table(report))
        finally:
            typer.echo(json.dumps(report))
    if report.get("interrupted"):
        typer.echo("interrupted: the report is of the complete rounds", err=True)
        raise KeyboardInterrupt


def settings(run: Any, *but: str) -> dict[str, Any]:
    """What a dataclass says was measured, for the report, but for what stands elsewhere in it."""
    left_out = {"dtype", "device", *but}
    return {each.name: getattr(run, each.name) for each in fields(run) if each.name not in left_out}


def table(columns: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """Plain text for people.

    Args:
        columns: "TITLE FORMAT | TITLE FORMAT"; a format begins with a brace, and is filled with a row's
            values by name.
    """
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    cells = list[str]()
    for column in columns.split(" | "):
        title, brace, cell = column.partition("{")
        made.add_column(title.strip(), justify="right" if cells else "left", no_wrap=True)
        cells.append(brace + cell)
    for row in rows:
        made.add_row(*(escape(cell.format_map(row)) for cell in cells))
    text = StringIO()
    Console(file=text, width=1000, color_system=None).print(made)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


@contextmanager
def progress(console: Console, what: str, total: int, completed: int = 0) -> Iterator[Callable[[], None]]:
    """A bar that moves only when the function it yields is called, between measurements: a thread that drew
    it would take its time from what is measured."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, auto_refresh=False, speed_estimate_period=_ESTIMATE_SECONDS
    ) as bar:
        task = bar.add_task(what, total=total, completed=completed)
        yield lambda: bar.update(task, advance=1, refresh=True)
