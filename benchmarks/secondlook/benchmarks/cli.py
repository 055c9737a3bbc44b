"""What this part adds to the command `secondlook`: commands that show and measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secondlook.benchmarks.benches import register as register_benches
from secondlook.benchmarks.commands import SeedOption, show
from secondlook.benchmarks.evaluation.cli import register as register_evaluation
from secondlook.edge.validation import from_json
from secondlook.edge.wire import Aggregation, Measure
from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import ModelOption, VerboseOption

if TYPE_CHECKING:
    from secondlook.engine.method.policy_file import Target


def register(app: typer.Typer) -> None:
    """Add the commands."""
    benches = typer.Typer(help="Measure speed.", no_args_is_help=True)
    evaluations = typer.Typer(
        help="Measure accuracy, retransmission and region search.", no_args_is_help=True
    )
    app.add_typer(benches, name="bench")
    app.add_typer(evaluations, name="eval")
    register_benches(benches)
    register_evaluation(evaluations)
    app.command()(demo)
    app.command()(calibrate)
    app.command()(report)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Which pictures are drawn.")] = 7,
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 12,
    model: ModelOption = "demo",
    verbose: VerboseOption = 0,
) -> None:
    """Ask a dozen pictures' questions through edge and server over loopback, and show what happened."""
    configure_logging(verbose)
    from secondlook.benchmarks.demo import run_demo

    run_demo(out, seed, count, model)


def report(
    logs: Annotated[
        list[Path],
        typer.Argument(help="Logs of one evaluation, or of several that differ in JPEG qualities alone."),
    ],
    output: Annotated[Path, typer.Option(help="Folder for index.html, summary.md and plots.")],
    threshold: Annotated[
        float | None, typer.Option(min=0.0, help="The operating point; by default the model's own.")
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

    page, *_ = write_report_of(logs, output, threshold, examples, images, resamples)
    typer.echo(f"wrote {page}")


def calibrate(
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
    found = from_log(log, target, policy, confidence=confidence, resamples=resamples, seed=seed)
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
