"""The command `secondlook serve`."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Annotated

import typer

from secondlook.engine.cli.logs import LogFormat, configure_logging
from secondlook.engine.cli.options import (
    LIMITS,
    POLICY,
    CacheOption,
    DeviceOption,
    DTypeOption,
    EncoderOption,
    ModelOption,
    PolicyOption,
    ProfileOption,
    ProviderOption,
    RebuildOption,
    RevisionOption,
    ThresholdOption,
    TrustOption,
    VerboseOption,
    VisionOption,
    chosen_policy,
)
from secondlook.engine.opening import EngineOptions, load_engine, loading_status

if TYPE_CHECKING:
    from secondlook.engine.serve.service import TwoLookService

__all__ = ["serve"]


def serve(
    model: ModelOption = "demo",
    revision: RevisionOption = None,
    profile: ProfileOption = None,
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
    max_bodies_mb: Annotated[
        int,
        typer.Option(
            min=1,
            help="MiB of all requests that arrive or are being answered; half of it for one address.",
            rich_help_panel=LIMITS,
        ),
    ] = 64,
    max_connections: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Connections; by default 1000, or as many as `ulimit -n` allows.",
            show_default=False,
            rich_help_panel=LIMITS,
        ),
    ] = None,
    header_seconds: Annotated[
        float, typer.Option(help="Seconds for a request's headers to arrive.", rich_help_panel=LIMITS)
    ] = 10.0,
    body_seconds: Annotated[
        float, typer.Option(help="Seconds for a request's body to arrive.", rich_help_panel=LIMITS)
    ] = 30.0,
    grace_seconds: Annotated[
        float,
        typer.Option(
            help="Seconds for answers and second looks after a signal to stop.", rich_help_panel=LIMITS
        ),
    ] = 30.0,
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
    forwarded_allow_ips: Annotated[
        str,
        typer.Option(
            help="Proxies, by address or network, that are believed on whom they ask for "
            "(X-Forwarded-For); several with commas between.",
            show_default="nobody",
            rich_help_panel="Network",
        ),
    ] = "",
    root_path: Annotated[
        str,
        typer.Option(
            help="Path under which a proxy serves this, such as /eyes.",
            show_default=False,
            rich_help_panel="Network",
        ),
    ] = "",
    log_format: Annotated[
        LogFormat, typer.Option(help="text, or json: one object a line, for programs.")
    ] = "text",
    verbose: VerboseOption = 0,
) -> None:
    """Answer edges' questions over HTTP until Ctrl-C."""
    configure_logging(verbose, log_format)
    calibrated = chosen_policy(policy, threshold)
    from secondlook.engine.encoders import EncoderChoice
    from secondlook.engine.method.budget import BudgetSettings
    from secondlook.engine.serve.app import address_url, listen
    from secondlook.engine.serve.app import serve as run_server
    from secondlook.engine.serve.settings import ConnectionLimits, ServerSettings, SessionLimits

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
        profile,
    )
    sessions = SessionLimits(max_waiting=max_pending, max_bytes=max_pending_mb * 2**20, seconds=session_ttl)
    settings = ServerSettings(
        queue_size=queue_size,
        max_body_bytes=max_body_mb * 2**20,
        max_bodies_bytes=max_bodies_mb * 2**20,
        forwarded_allow_ips=tuple(filter(None, map(str.strip, forwarded_allow_ips.split(",")))),
        sessions=sessions,
        connections=ConnectionLimits(
            most=max_connections, header_seconds=header_seconds, body_seconds=body_seconds
        ),
        grace_seconds=grace_seconds,
        root_path=root_path,
    )
    with listen(host, port) as listener:
        url = address_url(listener)
        # Nothing else is printed before the spinner has stopped.
        with loading_status(model) as stop_spinner:

            def on_ready(service: TwoLookService) -> None:
                stop_spinner()
                # What is there now stays. To look through it for garbage takes long (some 250 ms for the
                # embedded model on an AMD EPYC), and nobody is answered meanwhile.
                gc.collect()
                gc.freeze()
                typer.echo(f"{service.card.name} answers on {url} (Ctrl-C ends it)")

            try:
                run_server(lambda: load_engine(options), settings, listener, on_ready)
            except KeyboardInterrupt:
                # The usual way to end a server; by now what was in progress is finished.
                stop_spinner()
                typer.echo("stopped", err=True)
            finally:
                gc.unfreeze()
