"""The commands of `secondlook bench`."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from secondlook.benchmarks import options
from secondlook.benchmarks.commands import show, with_options, write_report
from secondlook.edge.files import check_writable
from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import VerboseOption

OutputOption = Annotated[Path | None, typer.Option(help="Write the JSON object here too.")]

_BENCHES: Final[dict[str, tuple[str, type[Any]]]] = {
    "latency": ("latency.latency:bench_latency", options.LatencyRun),
    "flops": ("latency.work:bench_flops", options.FlopsRun),
    "prefill": ("latency.prefill:bench_prefill", options.PrefillRun),
    "load": ("load:bench_load", options.LoadRun),
    "edge": ("edge.edge:bench_edge", options.EdgeRun),
    "vision": ("vision:bench_vision", options.VisionRun),
    "kernels": ("operators:bench_operators", options.KernelsRun),
    "replay": ("analysis.replay:bench_replay", options.ReplayRun),
    "budget": ("calibration.budget:bench_budget", options.BudgetRun),
}
"""Each command's function: it takes the options and, where they name one, the preset before them; tells how
far it is on stderr; and returns the report, for JSON."""


def register(benches: typer.Typer) -> None:
    for name, (function, taken) in _BENCHES.items():
        benches.command(name, help=taken.__doc__)(with_options(_bench(name, function), taken))


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
        kind: which of `secondlook bench`'s it is.

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
