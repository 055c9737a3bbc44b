"""The command `secondlook deploy`."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from types import FrameType
from typing import Annotated

import typer

from secondlook.edge.errors import SecondLookError
from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import (
    BudgetedPolicy,
    ModelChoice,
    VerboseOption,
    chosen_policy,
    with_groups,
)
from secondlook.engine.cli.serving import NETWORK, HostOption, RequestChoice

__all__ = ["DeploymentError", "deploy"]


class DeploymentError(SecondLookError):
    """The replicas could not be started."""


def _deploy(
    model: ModelChoice,
    policy: BudgetedPolicy,
    server: RequestChoice,
    replicas: Annotated[int, typer.Option(min=1, help="Servers, each with an engine of its own.")] = 2,
    cpus: Annotated[float, typer.Option(min=0.01, help="Cores that Ray sets aside for each.")] = 1.0,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs, or parts of one, for each.")] = 0.0,
    host: HostOption = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port to listen on.", rich_help_panel=NETWORK)
    ] = 8000,
    verbose: VerboseOption = 0,
) -> None:
    """Serve from several replicas behind one address, by Ray Serve, until Ctrl-C."""
    configure_logging(verbose)
    # Ray would tell its makers that it runs here; who wants that sets the variable.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # And its proxy would believe anybody on this machine whom he asks for; the replicas know whom to believe.
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "")
    import ray
    from ray import serve

    from secondlook.engine.serve.app import listen
    from secondlook.engine.serve.keys import read_keys
    from secondlook.engine.serve.ray_app import NAME, Deployed, app

    settings = server.settings()
    deployed = Deployed(
        **vars(model),
        **vars(policy),
        kv_cache_gb=server.kv_cache_gb,
        server=settings,
        replicas=replicas,
        cpus=cpus,
        gpus=gpus,
    )
    # What cannot be read or had is told here, before anything starts: a policy, an encoder, keys, a port.
    chosen_policy(policy.policy, policy.threshold)
    deployed.engine()
    if settings.api_key_file is not None:
        read_keys(settings.api_key_file, settings.key_limits)
    listen(host, port).close()
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    level = logging.INFO if verbose else logging.ERROR
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(level)
    ray.init(include_dashboard=False, log_to_driver=verbose > 0, logging_level=level)
    try:
        serve.start(http_options={"host": host, "port": port})
        try:
            serve.run(app(deployed), name=NAME)
        except RuntimeError as error:
            states = serve.status().applications[NAME].deployments.values()
            last = ("\n".join(state.message for state in states).strip().splitlines() or [str(error)])[-1]
            why = re.sub(r"^secondlook\.[\w.]+Error: ", "", last)
            raise DeploymentError(f"the replicas do not start (-v shows their logs): {why}") from error
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        typer.echo(f"{replicas} replicas of {model.model} answer on http://{host}:{port} (Ctrl-C ends them)")
        stopped.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


deploy = with_groups(_deploy, model=ModelChoice, policy=BudgetedPolicy, server=RequestChoice)
