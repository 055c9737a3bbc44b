"""The commands `secondlook bench latency`, `flops` and `prefill`."""

from __future__ import annotations

from typing import Annotated, Literal

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
    """Add the commands to `secondlook bench`."""
    benches.command("latency")(bench_latency)
    benches.command("flops")(bench_flops)
    benches.command("prefill")(bench_prefill)


def bench_latency(
    preset: PresetOption = "small",
    dtype: DTypeOption = "float32",
    device: DeviceOption = "auto",
    new_tokens: NewTokensOption = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Requests of each kind, sure and unsure.")] = 20,
    warmups: Annotated[int, typer.Option(min=0, help="Requests of each kind that do not count.")] = 2,
    seed: SeedOption = 0,
    vision: Annotated[
        Literal["torch", "onnx"], typer.Option(help="What encodes pictures for secondlook's own flow.")
    ] = "torch",
    output: OutputOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """Two looks beside the published way on the same weights, and beside a stronger version of it."""
    configure_logging(verbose)
    check_output(output)
    import torch

    from secondlook.benchmarks.latency import latency, presets, summary
    from secondlook.engine.devices import chosen_device

    place = chosen_device(device)
    run = latency.LatencyRun(getattr(torch, dtype), place, new_tokens, repeats, warmups, seed, vision)
    latency.bench_latency(presets.preset(preset), run, lambda report: tell(summary.rows_text, report, output))


def bench_flops(
    preset: PresetOption = "small",
    new_tokens: NewTokensOption = 4,
    retransmission_rate: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of questions that are looked at twice.")
    ] = 0.4,
    output: OutputOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """What two looks compute beside the published way, from the model's sizes alone; no weights are made."""
    configure_logging(verbose)
    check_output(output)
    from secondlook.benchmarks.latency import computation, presets

    report = computation.bench_flops(presets.preset(preset), new_tokens, retransmission_rate)
    tell(computation.flops_text, report, output)


def bench_prefill(
    preset: PresetOption = "small",
    dtype: DTypeOption = "float32",
    device: DeviceOption = "auto",
    repeats: Annotated[int, typer.Option(min=1, help="Of each way.")] = 20,
    seed: SeedOption = 0,
    output: OutputOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """Both questions in one prefill, beside the generic one in a short pass of its own."""
    configure_logging(verbose)
    check_output(output)
    import torch

    from secondlook.benchmarks.latency import prefill, presets
    from secondlook.engine.devices import chosen_device

    found = presets.preset(preset)
    report = prefill.bench_prefill(found, getattr(torch, dtype), chosen_device(device), repeats, seed)
    tell(prefill.prefill_text, report, output)
