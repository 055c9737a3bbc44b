"""What this part adds to the command `secondlook`: commands that show and measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secondlook.benchmarks.benches import register as register_benches
from secondlook.benchmarks.calibration.cli import register as register_calibration
from secondlook.benchmarks.commands import DeviceOption, OutputOption, check_output, tell
from secondlook.benchmarks.evaluation.cli import register as register_evaluation
from secondlook.benchmarks.report.cli import register as register_report
from secondlook.engine.cli.options import ModelOption, VerboseOption, configure_logging


def register(app: typer.Typer) -> None:
    """Add the commands."""
    benches = typer.Typer(help="Measure speed.", no_args_is_help=True)
    evaluations = typer.Typer(
        help="Measure accuracy, retransmission and region search.", no_args_is_help=True
    )
    app.add_typer(benches, name="bench")
    app.add_typer(evaluations, name="eval")
    register_benches(benches)
    register_calibration(app, benches)
    register_evaluation(evaluations)
    register_report(app, benches)
    app.command()(demo)
    benches.command("kernels")(bench_kernels)


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


def bench_kernels(
    device: DeviceOption = "auto",
    output: OutputOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """Each operator, the PyTorch composition it replaces, and the floor, in one run."""
    configure_logging(verbose)
    check_output(output)
    from secondlook.benchmarks.operators import bench_operators, rows_text
    from secondlook.engine.devices import chosen_device

    report = bench_operators(chosen_device(device))
    tell(rows_text, report, output)
