"""What the commands that serve have in common: their limits, their address, and their life until a signal."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
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

__all__ = [
    "NETWORK",
    "ApiKeyFileOption",
    "ConnectionsOption",
    "HostOption",
    "LogFormatOption",
    "PortOption",
    "RequestChoice",
    "ServerChoice",
    "run_until_stopped",
]

NETWORK = "Network"
KEYS = "Keys"

LogFormatOption = Annotated[LogFormat, typer.Option(help="text, or json: one object a line, for programs.")]
HostOption = Annotated[
    str, typer.Option(help="Address to listen on; 0.0.0.0 for every network.", rich_help_panel=NETWORK)
]
PortOption = Annotated[
    int,
    typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.", rich_help_panel=NETWORK),
]
ConnectionsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Connections; by default 1000, or as many as `ulimit -n` allows.",
        show_default=False,
        rich_help_panel=LIMITS,
    ),
]
ApiKeyFileOption = Annotated[
    Path | None,
    typer.Option(
        help="Who may ask: a file of lines name:sha256, read again when it has changed; by default "
        "anybody may.",
        show_default=False,
        rich_help_panel=KEYS,
    ),
]


@dataclass(frozen=True)
class RequestChoice:
    """What a server lets be asked, and by whom, wherever it listens."""

    kv_cache_gb: CacheOption = None
    queue_size: Annotated[
        int,
        typer.Option(
            min=1,
            help="First looks that may wait for the model, and as many second looks.",
            rich_help_panel=LIMITS,
        ),
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
    max_chat_body_mb: Annotated[
        int,
        typer.Option(
            min=1,
            help="MiB that a chat completion's request may have: whole pictures.",
            rich_help_panel=LIMITS,
        ),
    ] = 20
    max_pictures_mb: Annotated[
        int,
        typer.Option(
            min=1, help="MiB of chats' pictures that are kept for later questions.", rich_help_panel=LIMITS
        ),
    ] = 256
    max_bodies_mb: Annotated[
        int,
        typer.Option(
            min=1,
            help="MiB of all requests that arrive or are being answered; half of it for one client.",
            rich_help_panel=LIMITS,
        ),
    ] = 64
    grace_seconds: Annotated[
        float,
        typer.Option(
            help="Seconds for answers and second looks after a signal to stop.", rich_help_panel=LIMITS
        ),
    ] = 30.0
    allowed_media_domains: Annotated[
        str,
        typer.Option(
            help="Hosts whose pictures are fetched for chat completions, as host, or host:port for another "
            "port than http's or https's; several with commas between.",
            show_default="none",
            rich_help_panel=NETWORK,
        ),
    ] = ""
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
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Whose pages may ask from a browser, such as https://page.example, or *; may be given "
            "several times.",
            show_default="nobody's",
            rich_help_panel=NETWORK,
        ),
    ] = None
    api_key_file: ApiKeyFileOption = None
    key_concurrency: Annotated[
        int | None,
        typer.Option(
            min=1, help="Questions of a key in progress at once.", show_default=False, rich_help_panel=KEYS
        ),
    ] = None
    key_looks_per_minute: Annotated[
        int | None,
        typer.Option(min=1, help="Looks of a key in a minute.", show_default=False, rich_help_panel=KEYS),
    ] = None
    key_mb_per_minute: Annotated[
        int | None,
        typer.Option(
            min=1, help="MiB of a key's requests in a minute.", show_default=False, rich_help_panel=KEYS
        ),
    ] = None

    def settings(self) -> ServerSettings:
        """
        Raises:
            SettingsError: one of them is impossible.
            typer.BadParameter: one of them is of no use without another.
        """
        from secondlook.engine.serve.settings import (
            ChatLimits,
            KeyLimits,
            PictureStoreLimits,
            ServerSettings,
            SessionLimits,
        )

        most = self.key_mb_per_minute
        limits = KeyLimits(self.key_concurrency, self.key_looks_per_minute, most and most * 2**20)
        if self.api_key_file is None and limits != KeyLimits():
            raise typer.BadParameter("the limits are a key's: say which keys there are, with --api-key-file")
        sessions = SessionLimits(
            max_waiting=self.max_pending, max_bytes=self.max_pending_mb * 2**20, seconds=self.session_ttl
        )
        chat = ChatLimits(
            max_body_bytes=self.max_chat_body_mb * 2**20,
            allowed_media_domains=_listed(self.allowed_media_domains),
            pictures=PictureStoreLimits(max_bytes=self.max_pictures_mb * 2**20),
        )
        return ServerSettings(
            queue_size=self.queue_size,
            max_body_bytes=self.max_body_mb * 2**20,
            max_bodies_bytes=self.max_bodies_mb * 2**20,
            forwarded_allow_ips=_listed(self.forwarded_allow_ips),
            sessions=sessions,
            chat=chat,
            grace_seconds=self.grace_seconds,
            otlp_endpoint=self.otlp_endpoint,
            root_path=self.root_path,
            api_key_file=self.api_key_file,
            key_limits=limits,
            cors_origins=tuple(self.cors_origin or ()),
        )


@dataclass(frozen=True)
class ServerChoice(RequestChoice):
    """The same of a server that has connections of its own, with their limits, and where it listens."""

    max_connections: ConnectionsOption = None
    header_seconds: Annotated[
        float, typer.Option(help="Seconds for a request's headers to arrive.", rich_help_panel=LIMITS)
    ] = 10.0
    body_seconds: Annotated[
        float, typer.Option(help="Seconds for a request's body to arrive.", rich_help_panel=LIMITS)
    ] = 30.0
    host: HostOption = "127.0.0.1"
    port: PortOption = 8000
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="A second port of plain http, for /metrics alone, without a key.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            help="Its certificate (PEM), with those that lead to an authority's; then it speaks https.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        typer.Option(
            help="Its private key (PEM), without a password.", show_default=False, rich_help_panel=NETWORK
        ),
    ] = None

    def settings(self) -> ServerSettings:
        """
        Raises:
            SettingsError, typer.BadParameter: as without the connections.
        """
        from secondlook.engine.serve.settings import ConnectionLimits, TlsFiles

        tls = None
        if self.tls_cert is not None and self.tls_key is not None:
            tls = TlsFiles(self.tls_cert, self.tls_key)
        elif (self.tls_cert, self.tls_key) != (None, None):
            raise typer.BadParameter("--tls-cert and --tls-key go together: name both files")
        connections = ConnectionLimits(
            most=self.max_connections, header_seconds=self.header_seconds, body_seconds=self.body_seconds
        )
        return replace(super().settings(), connections=connections, tls=tls)


def _listed(text: str) -> tuple[str, ...]:
    """What has commas between."""
    return tuple(filter(None, map(str.strip, text.split(","))))


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

    with ExitStack() as stack:
        listener, metrics = stack.enter_context(listen(server.host, server.port)), None
        url = address_url(listener, tls=settings.tls is not None)
        if server.metrics_port is not None:
            metrics = stack.enter_context(listen(server.host, server.metrics_port))
            told += f", and its metrics on {address_url(metrics)}/metrics"
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
                serve(load, settings, listener, on_ready, extend, metrics)
            except KeyboardInterrupt:
                # The usual way to end a server; by now what was in progress is finished.
                stop_spinner()
                typer.echo("stopped", err=True)
            finally:
                gc.unfreeze()
