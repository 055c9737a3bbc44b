"""The command `secondlook serve`."""

from __future__ import annotations

from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import (
    BudgetedPolicy,
    ModelChoice,
    VerboseOption,
    chosen_policy,
    with_groups,
)
from secondlook.engine.cli.serving import LogFormatOption, ServerChoice, run_until_stopped
from secondlook.engine.opening import load_engine

__all__ = ["serve"]


def _serve(
    model: ModelChoice,
    policy: BudgetedPolicy,
    server: ServerChoice,
    log_format: LogFormatOption = "text",
    verbose: VerboseOption = 0,
) -> None:
    """Answer edges' questions over HTTP until Ctrl-C."""
    configure_logging(verbose, log_format)
    calibrated = chosen_policy(policy.policy, policy.threshold)
    from secondlook.engine.method.budget import BudgetSettings

    budget = BudgetSettings.chosen(policy.retransmission_rate, policy.bytes_per_second)
    options = model.options(server.kv_cache_gb, policy.threshold, calibrated, budget)
    run_until_stopped(lambda: load_engine(options), model.model, server, server.settings())


serve = with_groups(_serve, model=ModelChoice, policy=BudgetedPolicy, server=ServerChoice)
