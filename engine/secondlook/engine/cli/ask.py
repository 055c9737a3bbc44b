"""The command `secondlook ask`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from secondlook.edge.wire import AnswerReply
from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import (
    CacheOption,
    ModelChoice,
    PolicyChoice,
    VerboseOption,
    chosen_policy,
    with_groups,
)
from secondlook.engine.opening import load_engine, loading_status

__all__ = ["ask"]


def _ask(
    picture: Annotated[Path, typer.Argument(help="The picture's file.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    model: ModelChoice,
    policy: PolicyChoice,
    kv_cache_gb: CacheOption = None,
    second_look: Annotated[
        Literal["auto", "always", "never"], typer.Option("--second-look", help="Whether to look twice.")
    ] = "auto",
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    verbose: VerboseOption = 0,
) -> None:
    """Ask about one picture, with edge and server in this process.

    What the model sees goes through JPEG all the same.
    """
    configure_logging(verbose)
    from secondlook.edge.imaging import open_picture
    from secondlook.edge.wire import AnswerOptions
    from secondlook.engine.local import ask_locally

    calibrated = chosen_policy(policy.policy, policy.threshold)
    options = model.options(kv_cache_gb, policy.threshold, calibrated)
    opened = open_picture(picture)
    with loading_status(model.model):
        engine = load_engine(options)
    asking = AnswerOptions(second_look=second_look, max_new_tokens=max_new_tokens)
    with Console(stderr=True).status("looking ..."):
        asked = ask_locally(engine, opened, question, asking)
    if as_json:
        typer.echo(json.dumps({**asked.to_dict(), "precision": engine.card.precision}))
    else:
        typer.echo(_told(asked.reply, engine.card.precision))


ask = with_groups(_ask, model=ModelChoice, policy=PolicyChoice)


def _told(reply: AnswerReply, precision: str | None) -> str:
    lines = [
        reply.answer.text,
        "",
        f"first look   {reply.first.text!r}, uncertainty {reply.first.uncertainty:.3f}",
    ]
    if reply.second is not None and reply.region is not None:
        box = reply.region
        lines += [
            f"region       ({box.left}, {box.top}) to ({box.right}, {box.bottom})",
            f"second look  {reply.second.text!r}, uncertainty {reply.second.uncertainty:.3f}",
        ]
    lines.append(f"decision     {reply.decision.replace('_', ' ')}")
    if precision is not None and " " in precision:  # few bits are said, and nothing of the usual
        lines.append(f"precision    {precision}")
    return "\n".join(lines)
