"""The command `secondlook bench edge`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from secondlook.benchmarks.commands import OutputOption, SeedOption, check_output, tell
from secondlook.engine.cli import configure_logging
from secondlook.engine.cli.options import VerboseOption

__all__ = ["register"]


def register(benches: typer.Typer) -> None:
    """Add the command to `secondlook bench`."""
    benches.command("edge")(bench_edge)


def bench_edge(
    megapixels: Annotated[
        list[float] | None, typer.Option(help="Of the pictures; may be repeated; 2, 8 and 12 unless told.")
    ] = None,
    image_size: Annotated[
        int, typer.Option(min=16, max=4096, help="Side of the encoder's square, in pixels.")
    ] = 336,
    resize_mode: Annotated[
        Literal["squash", "pad"], typer.Option(help="How pictures are fitted to it.")
    ] = "squash",
    rounds: Annotated[int, typer.Option(min=1, help="Of new pictures, that each way prepares.")] = 20,
    warmups: Annotated[int, typer.Option(min=0, help="Rounds before them that do not count.")] = 2,
    seed: SeedOption = 0,
    output: OutputOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """Time, memory and bytes of the pictures an edge sends, beside decoding and resizing them plainly."""
    configure_logging(verbose)
    check_output(output)
    from secondlook.benchmarks.edge import edge, measure, summary

    sizes = tuple(megapixels or measure.EdgeRun.megapixels)
    run = measure.EdgeRun(sizes, image_size, resize_mode, rounds, warmups, seed)
    edge.bench_edge(run, lambda report: tell(summary.edge_text, report, output))
