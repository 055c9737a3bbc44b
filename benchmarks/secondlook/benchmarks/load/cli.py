"""The command `secondlook bench load`."""

from __future__ import annotations

from typing import Annotated

import typer

from secondlook.benchmarks.commands import (
    DeviceOption,
    DTypeOption,
    NewTokensOption,
    OutputOption,
    PresetOption,
    SeedOption,
    check_output,
    tell,
)
from secondlook.engine.cli import configure_logging
from secondlook.engine.cli.options import VerboseOption

__all__ = ["register"]


def register(benches: typer.Typer) -> None:
    """Add the command to `secondlook bench`."""
    benches.command("load")(bench_load)


def bench_load(
    preset: PresetOption = "demo",
    dtype: DTypeOption = "float32",
    device: DeviceOption = "auto",
    edges: Annotated[
        list[int] | None, typer.Option(min=1, max=64, help="Edges at the same time; may be repeated.")
    ] = None,
    retransmission_rate: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of questions that are looked at twice.")
    ] = 0.4,
    delay_ms: Annotated[float, typer.Option(min=0.0, max=10_000.0, help="Of the network, each way.")] = 0.0,
    new_tokens: NewTokensOption = 4,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each phase.")] = 15.0,
    warmup_seconds: Annotated[float, typer.Option(min=0.0, help="Of load before each phase.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1, help="Phases for each number of edges.")] = 3,
    seed: SeedOption = 0,
    output: OutputOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """Answers a second of a server over HTTP, many edges beside one at a time; 16 unless told."""
    configure_logging(verbose)
    check_output(output)
    import torch

    from secondlook.benchmarks.latency import presets
    from secondlook.benchmarks.load import load
    from secondlook.engine.devices import chosen_device

    run = load.LoadRun(
        dtype=getattr(torch, dtype),
        device=chosen_device(device),
        edges=tuple(edges or (16,)),
        retransmission_rate=retransmission_rate,
        delay_ms=delay_ms,
        seconds=seconds,
        warmup_seconds=warmup_seconds,
        rounds=rounds,
        new_tokens=new_tokens,
        seed=seed,
    )
    load.bench_load(presets.preset(preset), run, lambda report: tell(load.load_text, report, output))
