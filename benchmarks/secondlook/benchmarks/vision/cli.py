"""The command `secondlook bench vision`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from secondlook.benchmarks.commands import OutputOption, SeedOption, check_output, tell
from secondlook.engine.cli import configure_logging
from secondlook.engine.cli.options import VerboseOption

__all__ = ["register"]


def register(benches: typer.Typer) -> None:
    """Add the command to `secondlook bench`."""
    benches.command("vision")(bench_vision)


def bench_vision(
    preset: Annotated[
        Literal["small", "llava-1.5-7b", "llava-1.5-13b"],
        typer.Option(help="Whose tower and projector, with random weights; all have CLIP-L/14 at 336."),
    ] = "small",
    graph: Annotated[
        list[str] | None,
        typer.Option(
            help="Precision of an exported graph: float32, float16 or int8; again for another. "
            "[default: float32 and int8]",
            metavar="DTYPE",
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of each encoder and batch.")] = 20,
    seed: SeedOption = 0,
    output: OutputOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """The vision encoder in torch and in ONNX Runtime, one picture and two at a time, on the CPU."""
    configure_logging(verbose)
    check_output(output)
    from secondlook.benchmarks.latency.presets import preset as named
    from secondlook.benchmarks.vision import vision

    run = vision.VisionRun(tuple(graph or vision.GRAPHS), repeats=repeats, seed=seed)
    tell(vision.vision_text, vision.bench_vision(named(preset), run), output)
