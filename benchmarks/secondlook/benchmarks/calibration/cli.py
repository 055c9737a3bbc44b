"""The commands `secondlook calibrate threshold` and `secondlook calibrate heads`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from secondlook.benchmarks.benches import tell
from secondlook.benchmarks.commands import SeedOption, show, with_options
from secondlook.benchmarks.evaluation.options import Served
from secondlook.edge.validation import from_json
from secondlook.edge.wire import Aggregation, Measure
from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import VerboseOption

if TYPE_CHECKING:
    from secondlook.benchmarks.datasets.question import DataSet
    from secondlook.engine.method.policy_file import Target


_TAKES: Final = {"signs": ("seed",), "vstar": ("data", "images"), "textvqa": ("data", "images", "boxes")}
"""The options that each data set of `calibrate heads` takes, beside those that all take."""


def register(calibrations: typer.Typer) -> None:
    """Add the commands to `secondlook calibrate`."""
    calibrations.command()(threshold)
    calibrations.command("heads", help=heads.__doc__)(with_options(heads, Served))


def threshold(
    log: Annotated[Path, typer.Argument(help="A log of secondlook eval.")],
    output: Annotated[Path, typer.Option(help="The policy file, for secondlook serve --policy.")],
    retransmission_rate: Annotated[
        float | None, typer.Option(help="Target: share of the questions that is looked at twice.")
    ] = None,
    bytes_: Annotated[
        float | None, typer.Option("--bytes", help="Target: bytes sent a question, both looks together.")
    ] = None,
    accuracy: Annotated[
        float | None,
        typer.Option(help="Target: accuracy, from 0 to 1, with as few second looks as possible."),
    ] = None,
    measure: Annotated[Measure, typer.Option(help="Of a token's doubt.")] = "min_entropy",
    aggregation: Annotated[Aggregation, typer.Option(help="Tokens that its mean is taken over.")] = "all",
    first_k: Annotated[int, typer.Option(min=1, help="How many tokens first_k takes.")] = 5,
    include_eos: Annotated[bool, typer.Option(help="Whether the end token counts.")] = True,
    arbitration: Annotated[bool, typer.Option(help="Keep the surer answer, not always the second.")] = True,
    decide_after: Annotated[int, typer.Option(min=1, help="Tokens after which a server decides.")] = 5,
    gate: Annotated[
        Literal["gain", "change"] | None,
        typer.Option(
            help="Decide by a gate instead of by doubt, fitted on one half of the pictures: on whether a "
            "second look makes the answer better or, without truth, changes it."
        ),
    ] = None,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="Of the intervals and of the bound.")
    ] = 0.95,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap.")] = 1000,
    seed: SeedOption = 0,
) -> None:
    """Choose a threshold from a log, for a rate, for bytes or for an accuracy."""
    from secondlook.benchmarks.calibration.policy import calibrate as from_log
    from secondlook.benchmarks.report.tables import calibration
    from secondlook.engine.method.policy import Policy
    from secondlook.engine.method.policy_file import write_policy

    target = _target(retransmission_rate, bytes_, accuracy)
    policy = Policy(0.0, measure, aggregation, first_k, include_eos, arbitration, decide_after)
    found = from_log(log, target, policy, gate=gate, confidence=confidence, resamples=resamples, seed=seed)
    write_policy(found, output)
    show(calibration(found))
    typer.echo(f"wrote {output}")


def _target(rate: float | None, bytes_: float | None, accuracy: float | None) -> Target:
    from secondlook.engine.method.policy_file import Target

    given = {"retransmission_rate": rate, "bytes": bytes_, "accuracy": accuracy}
    chosen = [(kind, value) for kind, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise typer.BadParameter("give exactly one of --retransmission-rate, --bytes and --accuracy")
    ((kind, value),) = chosen
    return from_json(Target, json.dumps({"kind": kind, "value": value}))


def heads(
    run: Served,
    output: Annotated[Path, typer.Option(help="The profile, for --profile, or a model's localisation.json.")],
    data_set: Annotated[
        Literal["signs", "vstar", "textvqa"], typer.Option(help="Pictures that are asked about.")
    ] = "signs",
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data set's official files; signs are drawn.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of its pictures.")] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="Boxes of TextVQA's answers, as JSON lines {dataset_id, bbox}.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Which signs are drawn, of the calibration split; 1 unless told."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures at most.")] = 400,
    verbose: VerboseOption = 0,
) -> None:
    """Choose the layers and heads whose attention finds what is asked for, where boxes are known."""
    configure_logging(verbose)
    from secondlook.benchmarks.calibration.heads import calibrate_heads

    report = calibrate_heads(_boxed(data_set, data, images, boxes, seed, count), run, output)
    typer.echo(f"wrote {output}" if report["found"] else f"none found: {output} is not written")
    tell("heads", report, None)


def _boxed(
    name: str, data: Path | None, images: Path | None, boxes: Path | None, seed: int | None, count: int
) -> DataSet:
    given = {"data": data, "images": images, "boxes": boxes, "seed": seed}
    foreign = [f"--{key}" for key, value in given.items() if value is not None and key not in _TAKES[name]]
    if foreign:
        raise typer.BadParameter(f"--data-set {name} takes no {' and no '.join(foreign)}")
    if name == "signs":
        from secondlook.benchmarks.signs.evaluation import signs_data_set

        return signs_data_set("calibration", 1 if seed is None else seed, count)
    from secondlook.benchmarks.datasets.official import load_textvqa, load_vstar

    if data is None:
        raise typer.BadParameter(f"{name} needs --data, the folder of its official files")
    found = load_vstar(data, images) if name == "vstar" else load_textvqa(data, images, boxes=boxes)
    return found.first(count)
