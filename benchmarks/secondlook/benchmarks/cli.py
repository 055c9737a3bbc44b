"""What this part adds to the command `secondlook`: commands that show and measure."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from secondlook.benchmarks.benches import OutputOption, reported, tell
from secondlook.benchmarks.benches import register as register_benches
from secondlook.benchmarks.calibration.cli import register as register_calibration
from secondlook.benchmarks.commands import with_options
from secondlook.benchmarks.evaluation.cli import register as register_evaluation
from secondlook.benchmarks.options import PlanRun
from secondlook.edge.files import check_writable
from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import ModelOption, VerboseOption


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, added, text in (
        ("bench", register_benches, "Measure speed."),
        ("eval", register_evaluation, "Measure accuracy, retransmission and region search."),
        ("calibrate", register_calibration, "Choose when a model looks twice, and where it looks."),
    ):
        group = typer.Typer(help=text, no_args_is_help=True, callback=_interrupted_by_sigterm)
        app.add_typer(group, name=name)
        added(group)
    app.command()(demo)
    app.command()(demo_stream)
    app.command()(report)
    app.command("plan", help=PlanRun.__doc__)(with_options(_plan, PlanRun))


def _interrupted_by_sigterm(context: typer.Context) -> None:
    """SIGTERM ends a measurement as Ctrl-C does: what is complete is told, and no process is left behind."""
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        context.call_on_close(lambda: signal.signal(signal.SIGTERM, before or signal.SIG_DFL))


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Which pictures are drawn.")] = 7,
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 12,
    model: ModelOption = "demo",
    verbose: VerboseOption = 0,
) -> None:
    """Ask a dozen pictures' questions through edge and server over loopback, and show what happened."""
    configure_logging(verbose)
    from secondlook.benchmarks.demo import run_demo

    run_demo(out, seed, count, model)


def demo_stream(
    out: Annotated[Path, typer.Option(help="Folder for the film.")] = Path("out/demo-stream"),
    seed: Annotated[int, typer.Option(min=0, help="Which streams are drawn.")] = 7,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="In all; of 20 s a stream.")] = 60,
    delay: Annotated[float, typer.Option(min=0, max=60, help="Seconds that the cloud takes at least.")] = 1.0,
    model: ModelOption = "demo",
    cloud: Annotated[str, typer.Option(help="The large model.")] = "demo",
    verbose: VerboseOption = 0,
) -> None:
    """Show a moving camera's frames to a site that a late cloud teaches, over loopback: live, and a film."""
    configure_logging(verbose)
    from secondlook.benchmarks.streams.demo import run_demo_stream

    run_demo_stream(out, seed, seconds, delay, model, cloud)


def _plan(run: PlanRun, output: OutputOption = None, verbose: VerboseOption = 0) -> None:
    configure_logging(verbose)
    from secondlook.benchmarks.plan import plan

    if output is not None:
        check_writable(output)
    tell("plan", reported(run, plan, "float64"), output)


def report(
    logs: Annotated[
        list[Path],
        typer.Argument(help="Logs of one evaluation, or of several that differ in JPEG qualities alone."),
    ],
    output: Annotated[Path, typer.Option(help="Folder for index.html, summary.md and plots.")],
    threshold: Annotated[
        float | None, typer.Option(min=0.0, help="The operating point; by default the model's own.")
    ] = None,
    policy: Annotated[
        list[Path] | None,
        typer.Option(help="Of calibrate threshold --gate: draw its gate beside doubt; may be repeated."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the data set's pictures, for examples; signs are drawn.")
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="How many examples at most.")] = 6,
    resamples: Annotated[
        int | None,
        typer.Option(min=1, help="For the intervals; by default 200 to 1000, the fewer the longer the log."),
    ] = None,
    verbose: VerboseOption = 0,
) -> None:
    """What logs say: curves, tables and examples, as one page, as Markdown and as plots. Needs no model."""
    configure_logging(verbose)
    from secondlook.benchmarks.analysis.runs import read_family
    from secondlook.benchmarks.report.content import describe, write_document
    from secondlook.edge.files import check_writable

    check_writable(output / "index.html")
    document = describe(read_family(logs), threshold, examples, images, resamples, policy or ())
    typer.echo(f"wrote {write_document(document, output)}")
