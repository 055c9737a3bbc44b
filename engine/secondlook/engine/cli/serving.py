"""What the commands that serve have in common: their limits, their address, and their life until a signal."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from secondlook.engine.cli.logs import LogFormat
from secondlook.engine.cli.options import LIMITS, CacheOption
from secondlook.engine.opening import loading_status

if TYPE_CHECKING:
    from secondlook.engine.serve.app import Extension
    from secondlook.engine.serve.protocol import TwoLookEngine
    from secondlook.engine.serve.service import TwoLookService
    from secondlook.engine.serve.settings import ServerSettings

__all__ = ["LogFormatOption", "ServerChoice", "run_until_stopped"]

NETWORK = "Network"

LogFormatOption = Annotated[LogFormat, typer.Option(help="text, or json: one object a line, for programs.")]


@dataclass(frozen=True)
class ServerChoice:
    """A server's limits, and where it listens."""

    kv_cache_gb: CacheOption = None
    queue_size: Annotated[
        int, typer.Option(min=1, help="Questions that may wait for the model.", rich_help_panel=LIMITS)
    ] = 32
    max_pending: Annotated[
        int,
        typer.Option(min=1, help="Sessions that may wait for their local image.", rich_help_panel=LIMITS),
    ] = 1024
    max_pending_mb: Annotated[
        int,
        typer.Option(
            min=1, help="MiB that these keep in memory, without keys and values.", rich_help_panel=LIMITS
        ),
    ] = 1024
    session_ttl: Annotated[
        float, typer.Option(help="Seconds that a session waits.", rich_help_panel=LIMITS)
    ] = 60.0
    max_body_mb: Annotated[
        int, typer.Option(min=1, help="MiB that a request may have.", rich_help_panel=LIMITS)
    ] = 8
    max_bodies_mb: Annotated[
        int,
        typer.Option(
            min=1,
            help="MiB of all requests that arrive or are being answered; half of it for one address.",
            rich_help_panel=LIMITS,
        ),
    ] = 64
    max_connections: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Connections; by default 1000, or as many as `ulimit -n` allows.",
            show_default=False,
            rich_help_panel=LIMITS,
        ),
    ] = None
    header_seconds: Annotated[
        float, typer.Option(help="Seconds for a request's headers to arrive.", rich_help_panel=LIMITS)
    ] = 10.0
    body_seconds: Annotated[
        float, typer.Option(help="Seconds for a request's body to arrive.", rich_help_panel=LIMITS)
    ] = 30.0
    grace_seconds: Annotated[
        float,
        typer.Option(
            help="Seconds for answers and second looks after a signal to stop.", rich_help_panel=LIMITS
        ),
    ] = 30.0
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; 0.0.0.0 for every network.", rich_help_panel=NETWORK),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="Port to listen on; 0 takes a free one.", rich_help_panel=NETWORK
        ),
    ] = 8000
    forwarded_allow_ips: Annotated[
        str,
        typer.Option(
            help="Proxies, by address or network, that are believed on whom they ask for "
            "(X-Forwarded-For); several with commas between.",
            show_default="nobody",
            rich_help_panel=NETWORK,
        ),
    ] = ""
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            help="A collector's URL, such as http://localhost:4318, that is told of looks as OpenTelemetry's "
            "spans.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None
    root_path: Annotated[
        str,
        typer.Option(
            help="Path under which a proxy serves this, such as /eyes.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = ""

    def settings(self) -> ServerSettings:
        """
        Raises:
            SettingsError: one of them is impossible.
        """
        from secondlook.engine.serve.settings import ConnectionLimits, ServerSettings, SessionLimits

        sessions = SessionLimits(
            max_waiting=self.max_pending, max_bytes=self.max_pending_mb * 2**20, seconds=self.session_ttl
        )
        return ServerSettings(
            queue_size=self.queue_size,
            max_body_bytes=self.max_body_mb * 2**20,
            max_bodies_bytes=self.max_bodies_mb * 2**20,
            forwarded_allow_ips=tuple(filter(None, map(str.strip, self.forwarded_allow_ips.split(",")))),
            sessions=sessions,
            connections=ConnectionLimits(
                most=self.max_connections, header_seconds=self.header_seconds, body_seconds=self.body_seconds
            ),
            grace_seconds=self.grace_seconds,
            otlp_endpoint=self.otlp_endpoint,
            root_path=self.root_path,
        )


def run_until_stopped(
    load: Callable[[], TwoLookEngine],
    model: str,
    server: ServerChoice,
    settings: ServerSettings,
    extend: Extension | None = None,
    told: str = "",
) -> None:
    """Serve what `load` makes until Ctrl-C, and say so once it is ready.

    Args:
        model: as it was asked for.
        settings: the server's.
        told: what else it does.
    """
    from secondlook.engine.serve.app import address_url, listen, serve

    with listen(server.host, server.port) as listener:
        url = address_url(listener)
        # Nothing else is printed before the spinner has stopped.
        with loading_status(model) as stop_spinner:

            def on_ready(service: TwoLookService) -> None:
                stop_spinner()
                # What is there now stays. To look through it for garbage takes long (some 250 ms for the
                # embedded model on an AMD EPYC), and nobody is answered meanwhile.
                gc.collect()
                gc.freeze()
                typer.echo(f"{service.card.name} answers on {url}{told} (Ctrl-C ends it)")

            try:
                serve(load, settings, listener, on_ready, extend)
            except KeyboardInterrupt:
                # The usual way to end a server; by now what was in progress is finished.
                stop_spinner()
                typer.echo("stopped", err=True)
            finally:
                gc.unfreeze()
