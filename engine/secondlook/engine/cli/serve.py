"""The command `secondlook serve`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import typer

from secondlook.edge.route import without_password
from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import (
    BudgetedPolicy,
    ModelChoice,
    VerboseOption,
    chosen_policy,
    with_groups,
)
from secondlook.engine.cli.serving import LogFormatOption, ServerChoice, run_until_stopped
from secondlook.engine.cli.upstream import UpstreamChoice
from secondlook.engine.opening import load_engine

if TYPE_CHECKING:
    from secondlook.engine.method.budget import BudgetSettings
    from secondlook.engine.upstream.settings import UpstreamSettings

__all__ = ["serve"]


def _serve(
    model: ModelChoice,
    policy: BudgetedPolicy,
    server: ServerChoice,
    upstream: UpstreamChoice,
    log_format: LogFormatOption = "text",
    verbose: VerboseOption = 0,
) -> None:
    """Answer edges' questions over HTTP until Ctrl-C."""
    configure_logging(verbose, log_format)
    calibrated = chosen_policy(policy.policy, policy.threshold)
    from secondlook.engine.method.budget import BudgetSettings

    budget = BudgetSettings.chosen(policy.retransmission_rate, policy.bytes_per_second)
    if model.backend == "openai":
        _serve_upstream(upstream.settings(model), policy, budget, server)
        return
    if upstream != UpstreamChoice():
        raise typer.BadParameter("an upstream is asked with --engine openai: say so, or leave it out")
    options = model.options(server.kv_cache_gb, policy.threshold, calibrated, budget)
    run_until_stopped(lambda: load_engine(options), model.model, server, server.settings())


def _serve_upstream(
    settings: UpstreamSettings, policy: BudgetedPolicy, budget: BudgetSettings | None, server: ServerChoice
) -> None:
    """The same with the model of another server. Without torch."""
    if policy.policy is not None:
        raise typer.BadParameter("a policy file is for a model that is computed here: give a --threshold")
    if server.kv_cache_gb is not None:
        raise typer.BadParameter("keys and values are the upstream's: leave --kv-cache-gb out")
    from secondlook.engine.upstream.engine import open_upstream

    told = f", with the model of {without_password(settings.url)}"
    load = partial(open_upstream, settings, policy.threshold, budget)
    run_until_stopped(load, without_password(settings.url), server, server.settings(), told=told)


serve = with_groups(
    _serve, model=ModelChoice, policy=BudgetedPolicy, server=ServerChoice, upstream=UpstreamChoice
)
