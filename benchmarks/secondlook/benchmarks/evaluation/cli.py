"""The commands `secondlook eval DATASET` and `secondlook eval merge`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from secondlook.edge.imaging import GLOBAL_JPEG, LOCAL_JPEG
from secondlook.engine.cli import configure_logging
from secondlook.engine.cli.options import (
    CacheOption,
    DeviceOption,
    DTypeOption,
    ModelOption,
    ThresholdOption,
    VerboseOption,
)

if TYPE_CHECKING:
    from secondlook.benchmarks.datasets.question import DataSet
    from secondlook.benchmarks.evaluation.asking import Asking

DataOption = Annotated[Path, typer.Option("--data", help="Folder of the data set's official files.")]
ImagesOption = Annotated[
    Path | None, typer.Option("--images", help="Folder of its pictures; by default where they unpack to.")
]
LogOption = Annotated[
    Path, typer.Option("--log", help="Keep the run's records here; an interrupted run goes on from it.")
]
CountOption = Annotated[int | None, typer.Option("--count", min=1, help="Pictures; by default all.")]
ShardOption = Annotated[
    str, typer.Option("--shard", help="i/n: ask only about every n-th picture, this being the i-th part.")
]
ProcessesOption = Annotated[
    int | None, typer.Option("--processes", min=1, help="Default: one for each core, or one on a GPU.")
]
GlobalQualityOption = Annotated[
    int, typer.Option("--global-quality", min=1, max=100, help="JPEG quality of the global image.")
]
LocalQualityOption = Annotated[
    int, typer.Option("--local-quality", min=1, max=100, help="JPEG quality of the local image.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]

_HELP = {
    "pope": "POPE's three files: is there such a thing in the picture?",
    "aokvqa": "A-OKVQA's validation questions, for a direct answer and with their choices.",
    "gqa": "GQA's balanced test-dev questions.",
    "vqav2": "VQAv2's validation questions.",
    "vstar": "V*Bench: small things in large pictures.",
}


def register(evaluations: typer.Typer) -> None:
    """Add the commands to `secondlook eval`."""
    evaluations.command("signs")(eval_signs)
    evaluations.command("textvqa")(eval_textvqa)
    for name, text in _HELP.items():
        evaluations.command(name, help=text)(_command(name))
    evaluations.command("merge")(merge)


def eval_signs(
    seed: Annotated[int, typer.Option(min=0, help="Which pictures are drawn.")] = 4242,
    count: Annotated[int, typer.Option(min=1, help="Reading questions, one a picture.")] = 2000,
    split: Annotated[Literal["test", "calibration"], typer.Option(help="Which split to draw from.")] = "test",
    model: ModelOption = "demo",
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    kv_cache_gb: CacheOption = None,
    threshold: ThresholdOption = None,
    log: Annotated[
        Path | None, typer.Option(help="Keep the run's records here; an interrupted run goes on from it.")
    ] = None,
    shard: ShardOption = "1/1",
    processes: ProcessesOption = None,
    global_quality: GlobalQualityOption = GLOBAL_JPEG.quality,
    local_quality: LocalQualityOption = LOCAL_JPEG.quality,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Two looks at every picture once, then every policy replayed from the log."""
    configure_logging(verbose)
    from secondlook.benchmarks.evaluation.summary import run_signs, signs_text
    from secondlook.benchmarks.run_log import Shard

    asking = _asking(model, dtype, device, kv_cache_gb, global_quality, local_quality)
    report = run_signs(seed, count, split, asking, threshold, log, Shard.parse(shard), processes)
    _tell(signs_text, report, as_json)


def eval_textvqa(
    data: DataOption,
    log: LogOption,
    images: ImagesOption = None,
    ocr: Annotated[
        bool, typer.Option("--ocr", help="Ask with the OCR tokens; not to be compared with runs without.")
    ] = False,
    boxes: Annotated[
        Path | None, typer.Option(help="Boxes of the answers, as JSON lines {dataset_id, bbox}.")
    ] = None,
    count: CountOption = None,
    shard: ShardOption = "1/1",
    processes: ProcessesOption = None,
    model: ModelOption = "demo",
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    kv_cache_gb: CacheOption = None,
    threshold: ThresholdOption = None,
    global_quality: GlobalQualityOption = GLOBAL_JPEG.quality,
    local_quality: LocalQualityOption = LOCAL_JPEG.quality,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """TextVQA's validation questions, with or without OCR tokens."""
    configure_logging(verbose)
    from secondlook.benchmarks.datasets.official import load_textvqa

    asking = _asking(model, dtype, device, kv_cache_gb, global_quality, local_quality)
    found = load_textvqa(data, images, ocr=ocr, boxes=boxes)
    _evaluate(found, asking, log, count, shard, processes, threshold, as_json)


def _command(name: str) -> Callable[..., None]:
    def evaluate(
        data: DataOption,
        log: LogOption,
        images: ImagesOption = None,
        count: CountOption = None,
        shard: ShardOption = "1/1",
        processes: ProcessesOption = None,
        model: ModelOption = "demo",
        dtype: DTypeOption = "auto",
        device: DeviceOption = "auto",
        kv_cache_gb: CacheOption = None,
        threshold: ThresholdOption = None,
        global_quality: GlobalQualityOption = GLOBAL_JPEG.quality,
        local_quality: LocalQualityOption = LOCAL_JPEG.quality,
        as_json: JsonOption = False,
        verbose: VerboseOption = 0,
    ) -> None:
        configure_logging(verbose)
        from secondlook.benchmarks.datasets.official import load_data_set

        asking = _asking(model, dtype, device, kv_cache_gb, global_quality, local_quality)
        found = load_data_set(name, data, images)
        _evaluate(found, asking, log, count, shard, processes, threshold, as_json)

    return evaluate


def merge(
    logs: Annotated[list[Path], typer.Argument(help="The logs of all shards of one run.")],
    output: Annotated[Path, typer.Option(help="The file for the joined log.")],
) -> None:
    """Join the logs of a run's shards; logs of different runs are refused."""
    from secondlook.benchmarks.evaluation.running import merge_logs

    merge_logs(logs, output)
    typer.echo(f"wrote {output}")


def _asking(
    model: str, dtype: str, device: str, kv_cache_gb: float | None, global_quality: int, local_quality: int
) -> Asking:
    from dataclasses import replace

    from secondlook.benchmarks.evaluation.asking import Asking

    global_jpeg = replace(GLOBAL_JPEG, quality=global_quality)
    local_jpeg = replace(LOCAL_JPEG, quality=local_quality)
    return Asking(model, dtype, device, kv_cache_gb, global_jpeg, local_jpeg)


def _evaluate(
    data: DataSet,
    asking: Asking,
    log: Path,
    count: int | None,
    shard: str,
    processes: int | None,
    threshold: float | None,
    as_json: bool,
) -> None:
    from secondlook.benchmarks.evaluation.running import run
    from secondlook.benchmarks.evaluation.summary import summarise, summary_text
    from secondlook.benchmarks.run_log import Shard
    from secondlook.engine.method.policy import Policy

    if threshold is not None:
        Policy(threshold)  # refuses what is none before the long work
    done = run(data.first(count), asking, log, shard=Shard.parse(shard), processes=processes)
    report = summarise(data.name, done.records, done.threshold if threshold is None else threshold)
    _tell(summary_text, {**report, **done.described}, as_json)


def _tell(text: Callable[[dict[str, Any]], str], report: dict[str, Any], as_json: bool) -> None:
    typer.echo(text(report))
    if as_json:
        typer.echo(json.dumps(report))
