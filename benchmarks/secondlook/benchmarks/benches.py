"""The commands of `secondlook bench` that measure speed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from secondlook.benchmarks.commands import (
    DeviceOption,
    DTypeOption,
    NewTokensOption,
    OutputOption,
    PresetOption,
    SeedOption,
    make_room,
    tell,
)
from secondlook.engine.cli import configure_logging
from secondlook.engine.cli.options import VerboseOption

RateOption = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Share of questions that are looked at twice.")
]


def register(benches: typer.Typer) -> None:
    """Add the commands to `secondlook bench`."""
    benches.command("latency")(bench_latency)
    benches.command("flops")(bench_flops)
    benches.command("prefill")(bench_prefill)
    benches.command("load")(bench_load)
    benches.command("edge")(bench_edge)
    benches.command("vision")(bench_vision)


def bench_latency(
    preset: PresetOption = "small",
    dtype: DTypeOption = "float32",
    device: DeviceOption = "auto",
    new_tokens: NewTokensOption = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Requests of each kind, sure and unsure.")] = 20,
    warmups: Annotated[int, typer.Option(min=0, help="Requests of each kind that do not count.")] = 2,
    seed: SeedOption = 0,
    output: OutputOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """Two looks beside the published way on the same weights, and beside a stronger version of it."""
    _prepare(verbose, output)
    import torch

    from secondlook.benchmarks.latency import latency, subject, summary
    from secondlook.engine.devices import chosen_device

    place = chosen_device(device)
    run = latency.LatencyRun(getattr(torch, dtype), place, new_tokens, repeats, warmups, seed)
    tell(summary.rows_text, latency.bench_latency(subject.preset(preset), run), output)


def bench_flops(
    preset: PresetOption = "small",
    new_tokens: NewTokensOption = 4,
    retransmission_rate: RateOption = 0.4,
    output: OutputOption = None,
    verbose: VerboseOption = 0,
) -> None:
    """What two looks compute beside the published way, from the model's sizes alone; no weights are made."""
    _prepare(verbose, output)
    from secondlook.benchmarks.latency import computation, subject

    report = computation.bench_flops(subject.preset(preset), new_tokens, retransmission_rate)
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
    _prepare(verbose, output)
    import torch

    from secondlook.benchmarks.latency import prefill, subject
    from secondlook.engine.devices import chosen_device

    found = subject.preset(preset)
    report = prefill.bench_prefill(found, getattr(torch, dtype), chosen_device(device), repeats, seed)
    tell(prefill.prefill_text, report, output)


def bench_load(
    preset: PresetOption = "demo",
    dtype: DTypeOption = "float32",
    device: DeviceOption = "auto",
    edges: Annotated[
        list[int] | None, typer.Option(min=1, max=64, help="Edges at the same time; may be repeated.")
    ] = None,
    retransmission_rate: RateOption = 0.4,
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
    _prepare(verbose, output)
    import torch

    from secondlook.benchmarks import load
    from secondlook.benchmarks.latency import subject
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
    tell(load.load_text, load.bench_load(subject.preset(preset), run), output)


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
    _prepare(verbose, output)
    from secondlook.benchmarks.edge import edge, measure

    sizes = tuple(megapixels or measure.EdgeRun.megapixels)
    run = measure.EdgeRun(sizes, image_size, resize_mode, rounds, warmups, seed)
    tell(edge.edge_text, edge.bench_edge(run), output)


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
    _prepare(verbose, output)
    from secondlook.benchmarks import vision
    from secondlook.benchmarks.latency import subject

    run = vision.VisionRun(tuple(graph or vision.GRAPHS), repeats=repeats, seed=seed)
    tell(vision.vision_text, vision.bench_vision(subject.preset(preset), run), output)


def _prepare(verbose: int, output: Path | None) -> None:
    configure_logging(verbose)
    make_room(output)
