"""The commands of `secondlook bench`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from secondlook.benchmarks import options
from secondlook.benchmarks.commands import settings, show, with_options, write_report
from secondlook.benchmarks.peers.options import PeersRun
from secondlook.edge.files import check_writable
from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import VerboseOption

OutputOption = Annotated[Path | None, typer.Option(help="Write the JSON object here too.")]

_BENCHES: Final[dict[str, tuple[str, type[Any], str]]] = {
    "latency": ("latency.latency:bench_latency", options.LatencyRun, ""),
    "peers": ("peers.peers:bench_peers", PeersRun, "various"),
    "flops": ("latency.work:bench_flops", options.FlopsRun, "none: shapes only"),
    "prefill": ("latency.prefill:bench_prefill", options.PrefillRun, ""),
    "account": ("latency.account:bench_account", options.AccountRun, ""),
    "load": ("load:bench_load", options.LoadRun, ""),
    "replicas": ("replicas:bench_replicas", options.ReplicasRun, "float32"),
    "edge": ("edge.edge:bench_edge", options.EdgeRun, "uint8"),
    "lossless": ("edge.lossless:bench_lossless", options.LosslessRun, "float32"),
    "site": ("streams.live:bench_site", options.SiteRun, "float32"),
    "vision": ("vision:bench_vision", options.VisionRun, "float32"),
    "kernels": ("operators:bench_operators", options.KernelsRun, "various"),
    "replay": ("analysis.replay:bench_replay", options.ReplayRun, "float64"),
    "stream": ("streams.bench:bench_stream", options.StreamRun, ""),
    "browser": ("browser:bench_browser", options.BrowserRun, "float32"),
    "budget": ("calibration.budget:bench_budget", options.BudgetRun, "float64"),
    "gate": ("analysis.gating:bench_gate", options.GateRun, "float64"),
}
"""Each command's function, its options, and the dtype where these name none. The function takes the options
and, where they name one, the preset before them; tells how far it is on stderr; and returns what it measured,
for JSON."""


def register(benches: typer.Typer) -> None:
    for name, (function, taken, dtype) in _BENCHES.items():
        benches.command(name, help=taken.__doc__)(with_options(_bench(name, function, dtype), taken))


def _bench(name: str, function: str, dtype: str) -> Any:
    def bench(run: Any, output: OutputOption = None, verbose: VerboseOption = 0) -> None:
        configure_logging(verbose)
        if output is not None:
            check_writable(output)
        module, _, called = function.partition(":")
        measure = getattr(import_module(f"secondlook.benchmarks.{module}"), called)
        if hasattr(run, "preset"):
            from secondlook.benchmarks.latency import subject

            measure = partial(measure, subject.preset(run.preset))
        tell(name, reported(run, measure, dtype), output)

    return bench


def reported(run: Any, measure: Callable[[Any], dict[str, Any]], dtype: str = "") -> dict[str, Any]:
    """The report: what is measured, the options that it does not tell itself, and what it was measured on,
    which is asked before, for what runs was loaded then."""
    import torch

    from secondlook.benchmarks.environment import environment
    from secondlook.engine.devices import chosen_device

    on = environment(str(chosen_device(getattr(run, "device", "cpu"))), getattr(run, "dtype", dtype))
    found = measure(run)
    more = {
        name: value for name, value in settings(run, *found).items() if isinstance(value, int | float | str)
    }
    return {**found, **more, "environment": on, "threads": torch.get_num_threads()}


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
