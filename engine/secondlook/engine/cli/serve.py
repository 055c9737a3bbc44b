"""The command `secondlook serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from secondlook.engine.cli.options import (
    LIMITS,
    POLICY,
    CacheOption,
    DeviceOption,
    DTypeOption,
    EncoderOption,
    ModelOption,
    PolicyOption,
    ProviderOption,
    RebuildOption,
    RevisionOption,
    ThresholdOption,
    TrustOption,
    VerboseOption,
    VisionOption,
    chosen_policy,
    configure_logging,
)
from secondlook.engine.opening import EngineOptions, load_engine, loading_status

if TYPE_CHECKING:
    from secondlook.engine.serve.service import TwoLookService

__all__ = ["serve"]


def serve(
    model: ModelOption = "demo",
    revision: RevisionOption = None,
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    vision: VisionOption = "torch",
    encoder: EncoderOption = None,
    provider: ProviderOption = "auto",
    trust_plan: TrustOption = False,
    rebuild: RebuildOption = False,
    threshold: ThresholdOption = None,
    policy: PolicyOption = None,
    retransmission_rate: Annotated[
        float | None,
        typer.Option(
            help="Move the threshold so that this share of the questions is looked at twice.",
            rich_help_panel=POLICY,
        ),
    ] = None,
    bytes_per_second: Annotated[
        float | None,
        typer.Option(
            help="Move the threshold so that local images have at most so many bytes a second.",
            rich_help_panel=POLICY,
        ),
    ] = None,
    kv_cache_gb: CacheOption = None,
    queue_size: Annotated[
        int, typer.Option(min=1, help="Questions that may wait for the model.", rich_help_panel=LIMITS)
    ] = 32,
    max_pending: Annotated[
        int,
        typer.Option(min=1, help="Sessions that may wait for their local image.", rich_help_panel=LIMITS),
    ] = 1024,
    max_pending_mb: Annotated[
        int,
        typer.Option(
            min=1, help="MiB that these keep in memory, without keys and values.", rich_help_panel=LIMITS
        ),
    ] = 1024,
    session_ttl: Annotated[
        float, typer.Option(help="Seconds that a session waits.", rich_help_panel=LIMITS)
    ] = 60.0,
    max_body_mb: Annotated[
        int, typer.Option(min=1, help="MiB that a request may have.", rich_help_panel=LIMITS)
    ] = 8,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; 0.0.0.0 for every network.", rich_help_panel="Network"),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="Port to listen on; 0 takes a free one.", rich_help_panel="Network"
        ),
    ] = 8000,
    verbose: VerboseOption = 0,
) -> None:
    """Answer edges' questions over HTTP until Ctrl-C."""
    configure_logging(verbose)
    calibrated = chosen_policy(policy, threshold)
    from secondlook.engine.encoders import EncoderChoice
    from secondlook.engine.method.budget import BudgetSettings
    from secondlook.engine.serve.app import address_url, listen
    from secondlook.engine.serve.app import serve as run_server
    from secondlook.engine.serve.settings import ServerSettings, SessionLimits

    budget = None
    if (retransmission_rate, bytes_per_second) != (None, None):
        budget = BudgetSettings(retransmission_rate, bytes_per_second)
    options = EngineOptions(
        model,
        dtype,
        device,
        threshold,
        calibrated,
        budget,
        kv_cache_gb,
        EncoderChoice(vision, encoder, provider, trust_plan, rebuild),
        revision,
    )
    sessions = SessionLimits(max_waiting=max_pending, max_bytes=max_pending_mb * 2**20, seconds=session_ttl)
    settings = ServerSettings(queue_size=queue_size, max_body_bytes=max_body_mb * 2**20, sessions=sessions)
    with listen(host, port) as listener:
        url = address_url(listener)
        # Nothing else is printed before the spinner has stopped.
        with loading_status(model) as stop_spinner:

            def on_ready(service: TwoLookService) -> None:
                stop_spinner()
                typer.echo(f"{service.card.name} answers on {url} (Ctrl-C ends it)")

            try:
                run_server(lambda: load_engine(options), settings, listener, on_ready)
            except KeyboardInterrupt:
                # The usual way to end a server; by now what was in progress is finished.
                stop_spinner()
                typer.echo("stopped", err=True)
