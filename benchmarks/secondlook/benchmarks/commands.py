"""What the commands have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from secondlook.edge.errors import SecondLookError
from secondlook.edge.files import write_files
from secondlook.engine.cli.options import with_groups

Item = TypeVar("Item")

SeedOption = Annotated[int, typer.Option(min=0, help="Of weights, pictures and questions.")]

_FILE_WIDTH: Final = 130
"""Columns of tables that do not go to a terminal."""

_ESTIMATE_SECONDS: Final = 600.0
"""One measurement may take long."""


class MeasurementError(SecondLookError):
    """What was to be measured is not there, or failed."""


def with_options(function: Callable[..., None], options: type[Any]) -> Callable[..., None]:
    """A command of typer's: a function's own options, and those of a dataclass, which it gets as `run`."""
    return with_groups(function, run=options)


def write_report(report: dict[str, Any], path: Path) -> None:
    write_files({path: json.dumps(report, indent=4) + "\n"})


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


def show(text: str) -> None:
    """Print Markdown for people."""
    console = Console()
    console = console if console.is_terminal else Console(width=_FILE_WIDTH)
    console.print(Markdown(text))


def settings(run: Any, *but: str) -> dict[str, Any]:
    """What a run's options say, for the report, but for what stands elsewhere in it."""
    left_out = {"dtype", "device", *but}
    return {each.name: getattr(run, each.name) for each in fields(run) if each.name not in left_out}


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
