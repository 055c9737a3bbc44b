"""The commands `secondlook eval DATASET`, and what is made of their logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from secondlook.benchmarks.benches import OutputOption, tell
from secondlook.benchmarks.commands import show, with_options
from secondlook.benchmarks.evaluation.options import Asking
from secondlook.edge.validation import validated
from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import ThresholdOption, VerboseOption

if TYPE_CHECKING:
    from secondlook.benchmarks.datasets.question import DataSet

_LOG_HELP = "Keep the run's records here; an interrupted run goes on from it."
DataOption = Annotated[Path, typer.Option("--data", help="Folder of the data set's official files.")]
ImagesOption = Annotated[
    Path | None, typer.Option("--images", help="Folder of its pictures; by default where they unpack to.")
]
LogOption = Annotated[Path, typer.Option("--log", help=_LOG_HELP)]
CountOption = Annotated[int | None, typer.Option("--count", min=1, help="Pictures; by default all.")]

_HELP = {
    "pope": "POPE's three files: is there such a thing in the picture?",
    "aokvqa": "A-OKVQA's validation questions, for a direct answer and with their choices.",
    "gqa": "GQA's balanced test-dev questions.",
    "vqav2": "VQAv2's validation questions.",
    "vstar": "V*Bench: small things in large pictures.",
}


@validated(frozen=True)
class RunOptions(Asking):
    """The options that all evaluations have."""

    shard: Annotated[
        str, typer.Option(help="i/n: ask only about every n-th picture, this being the i-th part.")
    ] = "1/1"
    processes: Annotated[
        int | None, typer.Option(min=1, help="Default: one for each core, or one on a GPU.")
    ] = None
    threshold: ThresholdOption = None
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False
    verbose: VerboseOption = 0


def register(evaluations: typer.Typer) -> None:
    evaluations.command("signs", help=eval_signs.__doc__)(with_options(eval_signs, RunOptions))
    evaluations.command("textvqa", help=eval_textvqa.__doc__)(with_options(eval_textvqa, RunOptions))
    for name, text in _HELP.items():
        evaluations.command(name, help=text)(with_options(_official(name), RunOptions))
    evaluations.command("merge")(merge)
    evaluations.command("compare")(compare)
    evaluations.command("bits")(bits)


def eval_signs(
    run: RunOptions,
    seed: Annotated[int, typer.Option(min=0, help="Which pictures are drawn.")] = 4242,
    count: Annotated[int, typer.Option(min=1, help="Reading questions, one a picture.")] = 2000,
    split: Annotated[Literal["test", "calibration"], typer.Option(help="Which split to draw from.")] = "test",
    log: Annotated[Path | None, typer.Option(help=_LOG_HELP)] = None,
) -> None:
    """Two looks at every picture once, then every policy replayed from the log."""
    from secondlook.benchmarks.signs.evaluation import signs_data_set

    with TemporaryDirectory() as folder:
        data = signs_data_set(split, seed, count)
        _evaluate(data, Path(folder) / "signs.jsonl" if log is None else log, run)


def eval_textvqa(
    run: RunOptions,
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
) -> None:
    """TextVQA's validation questions, with or without OCR tokens."""
    from secondlook.benchmarks.datasets.official import load_textvqa

    _evaluate(load_textvqa(data, images, ocr=ocr, boxes=boxes).first(count), log, run)


def _official(name: str) -> Callable[..., None]:
    def evaluate(
        run: RunOptions,
        data: DataOption,
        log: LogOption,
        images: ImagesOption = None,
        count: CountOption = None,
    ) -> None:
        from secondlook.benchmarks.datasets.official import LOADERS

        _evaluate(LOADERS[name](data, images).first(count), log, run)

    return evaluate


def merge(
    logs: Annotated[list[Path], typer.Argument(help="The logs of all shards of one run.")],
    output: Annotated[Path, typer.Option(help="The file for the joined log.")],
) -> None:
    """Join the logs of a run's shards; logs of different runs are refused."""
    from secondlook.benchmarks.evaluation.running import merge_logs

    merge_logs(logs, output)
    typer.echo(f"wrote {output}")


def compare(
    first: Annotated[Path, typer.Argument(help="A log.")],
    second: Annotated[Path, typer.Argument(help="Of the same questions, asked with another --profile.")],
    output: OutputOption = None,
) -> None:
    """What another place to look closer gives: accuracy at equal bytes, regions, paired intervals."""
    from secondlook.benchmarks.analysis.comparing import compare as compared

    tell("compare", compared([first, second]), output)


def bits(
    logs: Annotated[
        list[Path], typer.Argument(help="Of the same questions: in float32, then in other precisions.")
    ],
    threshold: ThresholdOption = None,
    output: OutputOption = None,
) -> None:
    """What fewer bits change: accuracy, doubts, and what becomes of the first log's threshold; paired."""
    from secondlook.benchmarks.evaluation.bits import compare_bits

    tell("bits", compare_bits(logs, threshold), output)


def _evaluate(data: DataSet, log: Path, options: RunOptions) -> None:
    from secondlook.benchmarks.evaluation.running import run
    from secondlook.benchmarks.evaluation.summary import summarise
    from secondlook.benchmarks.report.tables import evaluation
    from secondlook.benchmarks.run_log import Shard
    from secondlook.engine.method.policy import Policy

    configure_logging(options.verbose)
    if options.threshold is not None:
        Policy(options.threshold)  # refuses what is none before the long work
    done = run(data, options, log, shard=Shard.parse(options.shard), processes=options.processes)
    threshold = done.threshold if options.threshold is None else options.threshold
    report = {**summarise(data, done.records, threshold), **done.described}
    report["skipped"] = {one.file: one.why for one in done.skipped}
    show(evaluation(report))
    if options.json:
        typer.echo(json.dumps(report))
