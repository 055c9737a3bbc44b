"""The commands `secondlook report` and `secondlook bench replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secondlook.benchmarks.commands import OutputOption, check_output, tell
from secondlook.engine.cli import configure_logging
from secondlook.engine.cli.options import VerboseOption


def register(app: typer.Typer, benches: typer.Typer) -> None:
    """Add `report` to the application and `replay` to its benches."""
    app.command()(report)
    benches.command("replay")(bench_replay)


def report(
    logs: Annotated[
        list[Path],
        typer.Argument(help="Logs of one evaluation, or of several that differ in JPEG qualities alone."),
    ],
    output: Annotated[Path, typer.Option(help="Folder for index.html, summary.md and plots.")],
    threshold: Annotated[
        float | None, typer.Option(min=0.0, help="The operating point; by default the model's own.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only questions of this kind; may be given several times.")
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
    from secondlook.benchmarks.report.content import write_report_of

    page, *_ = write_report_of(logs, output, threshold, kind or (), examples, images, resamples)
    typer.echo(f"wrote {page}")


def bench_replay(
    log: Annotated[Path, typer.Argument(help="A log, whose pictures are repeated.")],
    rows: Annotated[int, typer.Option(min=1, help="Records of the log that is timed.")] = 100_000,
    output: OutputOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """How long reading a long log takes, and every curve that a report draws from it."""
    configure_logging(verbose)
    check_output(output)
    from secondlook.benchmarks.analysis import replay

    tell(replay.replay_text, replay.bench_replay(log, rows), output)
