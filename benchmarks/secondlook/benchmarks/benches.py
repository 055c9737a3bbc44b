"""The commands of `secondlook bench`."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from secondlook.benchmarks.commands import show, with_options, write_report
from secondlook.benchmarks.options import (
    BudgetRun,
    EdgeRun,
    FlopsRun,
    KernelsRun,
    LatencyRun,
    LoadRun,
    PrefillRun,
    ReplayRun,
    VisionRun,
)
from secondlook.edge.files import check_writable
from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import VerboseOption

OutputOption = Annotated[Path | None, typer.Option(help="Write the JSON object here too.")]

_BENCHES: Final[dict[str, tuple[str, type[Any]]]] = {
    "latency": ("latency.latency:bench_latency", LatencyRun),
    "flops": ("latency.work:bench_flops", FlopsRun),
    "prefill": ("latency.prefill:bench_prefill", PrefillRun),
    "load": ("load:bench_load", LoadRun),
    "edge": ("edge.edge:bench_edge", EdgeRun),
    "vision": ("vision:bench_vision", VisionRun),
    "kernels": ("operators:bench_operators", KernelsRun),
    "replay": ("analysis.replay:bench_replay", ReplayRun),
    "budget": ("calibration.budget:bench_budget", BudgetRun),
}
"""Each command's function, which takes the options and, where they name one, the preset before them."""


def register(benches: typer.Typer) -> None:
    """Add the commands to `secondlook bench`."""
    for name, (function, options) in _BENCHES.items():
        benches.command(name, help=options.__doc__)(with_options(_bench(name, function), options))


def _bench(name: str, function: str) -> Any:
    def bench(run: Any, output: OutputOption = None, verbose: VerboseOption = 0) -> None:
        configure_logging(verbose)
        if output is not None:
            check_writable(output)
        module, _, called = function.partition(":")
        measure = getattr(import_module(f"secondlook.benchmarks.{module}"), called)
        if not hasattr(run, "preset"):
            tell(name, measure(run), output)
            return
        from secondlook.benchmarks.latency import subject

        tell(name, measure(subject.preset(run.preset), run), output)

    return bench


def tell(kind: str, report: dict[str, Any], output: Path | None) -> None:
    """Keep a report if it is to be kept; print it, as documents show it and, in the last line, as JSON.

    Args:
        kind: which of `templates/tables.md` it is.

    Raises:
        KeyboardInterrupt: at the end, if Ctrl-C ended what was measured.
    """
    from secondlook.benchmarks.report.tables import measured

    try:
        if output is not None:
            write_report(report, output)
    finally:  # what was measured is not lost, whatever fails
        try:
            show(measured(kind, report))
        finally:
            typer.echo(json.dumps(report))
    if report.get("interrupted"):
        typer.echo("interrupted: the report is of the complete rounds", err=True)
        raise KeyboardInterrupt
