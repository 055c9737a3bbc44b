"""The commands `secondlook bench latency` and `secondlook bench flops`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from secondlook.edge.errors import SettingsError
from secondlook.engine.cli import VerboseOption, configure_logging

if TYPE_CHECKING:
    import torch

__all__ = ["register"]

PresetOption = Annotated[
    Literal["small", "llava-1.5-7b", "llava-1.5-13b", "demo"],
    typer.Option(help="A model's sizes, with random weights; demo is the embedded model."),
]
NewTokensOption = Annotated[int, typer.Option(min=1, max=1024, help="Tokens of each answer.")]
OutputOption = Annotated[Path | None, typer.Option(help="Write the JSON object here too.")]


def register(benches: typer.Typer) -> None:
    """Add both commands to `secondlook bench`."""
    benches.command("latency")(bench_latency)
    benches.command("flops")(bench_flops)


def bench_latency(
    preset: PresetOption = "small",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Of weights and activations.")
    ] = "float32",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to measure.")] = "auto",
    new_tokens: NewTokensOption = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Requests of each kind, sure and unsure.")] = 20,
    warmups: Annotated[int, typer.Option(min=0, help="Requests of each kind that do not count.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, pictures and questions.")] = 0,
    output: OutputOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """Two looks beside the published way on the same weights, and beside a stronger version of it."""
    configure_logging(verbose)
    _check_output(output)
    import torch

    from secondlook.benchmarks.latency import latency, presets, summary

    run = latency.LatencyRun(getattr(torch, dtype), _device(device), new_tokens, repeats, warmups, seed)
    report = latency.bench_latency(presets.preset(preset), run)
    _tell(summary.rows_text(report), report, output)


def bench_flops(
    preset: PresetOption = "small",
    new_tokens: NewTokensOption = 4,
    output: OutputOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """What two looks compute beside the published way, from the model's sizes alone; no weights are made."""
    configure_logging(verbose)
    _check_output(output)
    from secondlook.benchmarks.latency import computation, presets

    report = computation.bench_flops(presets.preset(preset), new_tokens)
    _tell(computation.flops_text(report), report, output)


def _device(name: str) -> torch.device:
    import torch

    from secondlook.engine.errors import DeviceError

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    elif name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device 'cuda' is not available: torch sees no CUDA GPU; use cpu")
    return torch.device(name)


def _check_output(output: Path | None) -> None:
    """Refuse, before the long work, a file that cannot be written after it."""
    if output is None:
        return
    if output.is_dir() or not output.parent.is_dir():
        raise SettingsError(f"cannot write {output}: give a file in a folder that exists")


def _tell(table: str, report: Mapping[str, Any], output: Path | None) -> None:
    typer.echo(table)
    if output is not None:
        output.write_text(json.dumps(report, indent=4) + "\n", encoding="utf-8")
    typer.echo(json.dumps(report))
