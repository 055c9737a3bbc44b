"""The command `secondlook serve`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import (
    POLICY,
    ModelChoice,
    PolicyChoice,
    VerboseOption,
    chosen_policy,
    with_groups,
)
from secondlook.engine.cli.serving import LogFormatOption, ServerChoice, run_until_stopped
from secondlook.engine.opening import load_engine

__all__ = ["serve"]


@dataclass(frozen=True)
class _Policy(PolicyChoice):
    """When to look twice, and what that may cost."""

    retransmission_rate: Annotated[
        float | None,
        typer.Option(
            help="Move the threshold so that this share of the questions is looked at twice.",
            rich_help_panel=POLICY,
        ),
    ] = None
    bytes_per_second: Annotated[
        float | None,
        typer.Option(
            help="Move the threshold so that local images have at most so many bytes a second.",
            rich_help_panel=POLICY,
        ),
    ] = None


def _serve(
    model: ModelChoice,
    policy: _Policy,
    server: ServerChoice,
    log_format: LogFormatOption = "text",
    verbose: VerboseOption = 0,
) -> None:
    """Answer edges' questions over HTTP until Ctrl-C."""
    configure_logging(verbose, log_format)
    calibrated = chosen_policy(policy.policy, policy.threshold)
    from secondlook.engine.method.budget import BudgetSettings

    budget = None
    if (policy.retransmission_rate, policy.bytes_per_second) != (None, None):
        budget = BudgetSettings(policy.retransmission_rate, policy.bytes_per_second)
    options = model.options(server.kv_cache_gb, policy.threshold, calibrated, budget)
    run_until_stopped(lambda: load_engine(options), model.model, server, server.settings())


serve = with_groups(_serve, model=ModelChoice, policy=_Policy, server=ServerChoice)
