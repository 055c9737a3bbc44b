"""The command `secondlook gateway`. It needs neither torch nor transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import LIMITS, VerboseOption
from secondlook.engine.cli.serving import (
    NETWORK,
    ApiKeyFileOption,
    ConnectionsOption,
    HostOption,
    LogFormatOption,
    PortOption,
)

__all__ = ["gateway"]

CAMERA: Final = "Camera"
SERVER: Final = "Server"
HELD: Final = "held"


def gateway(
    camera: Annotated[
        str,
        typer.Argument(
            help="http://… for snapshots or MJPEG, rtsp://…, or a device; with user:password@ where it wants "
            "them.",
            show_default=False,
        ),
    ],
    server: Annotated[
        str,
        typer.Option(
            help="The server that answers, such as https://host:8000.",
            envvar="SECONDLOOK_SERVER",
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ],
    crops: Annotated[
        str,
        typer.Option(
            help="held: crops are of the frame that was asked about. Or the address of the camera's whole "
            "snapshots, where it crops them itself (?crop=XxYxWxH): crops are then of a later moment.",
            rich_help_panel=CAMERA,
        ),
    ] = HELD,
    hold_seconds: Annotated[
        float, typer.Option(help="Seconds that a frame is held.", rich_help_panel=CAMERA)
    ] = 30.0,
    hold_mb: Annotated[
        int, typer.Option(min=1, help="MiB of all frames that are held.", rich_help_panel=CAMERA)
    ] = 64,
    api_key: Annotated[
        str | None,
        typer.Option(
            help="The server's key.",
            envvar="SECONDLOOK_API_KEY",
            show_default=False,
            rich_help_panel=SERVER,
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            help="A further header for it, as 'Name: value'; may be given several times.",
            rich_help_panel=SERVER,
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(help="Certificates (PEM) to trust instead of the usual ones.", rich_help_panel=SERVER),
    ] = None,
    wait_budget: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds that a question may wait for a server that is away or busy.",
            rich_help_panel=SERVER,
        ),
    ] = 10.0,
    max_questions: Annotated[
        int, typer.Option(min=1, help="Questions that may be under way.", rich_help_panel=LIMITS)
    ] = 8,
    max_connections: ConnectionsOption = None,
    grace_seconds: Annotated[
        float, typer.Option(help="Seconds for answers after a signal to stop.", rich_help_panel=LIMITS)
    ] = 30.0,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name by which it is asked, besides addresses, localhost and --host; may be given several "
            "times; * for any.",
            show_default="none",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    api_key_file: ApiKeyFileOption = None,
    log_format: LogFormatOption = "text",
    verbose: VerboseOption = 0,
) -> None:
    """Answer questions about a camera that has none of this software, with the help of a server."""
    configure_logging(verbose, log_format)
    from secondlook.edge.cli_options import parsed_headers
    from secondlook.edge.retry import ClientSettings
    from secondlook.engine.gateway.camera import Camera, HoldLimits
    from secondlook.engine.gateway.crops import CameraCrops
    from secondlook.engine.serve.app import address_url, listen
    from secondlook.engine.serve.foreign import is_address
    from secondlook.engine.serve.gateway import Gateway, serve_gateway
    from secondlook.engine.serve.settings import ConnectionLimits, GatewaySettings

    settings = ClientSettings(api_key=api_key, headers=parsed_headers(header), ca=ca, wait_budget=wait_budget)
    named = [] if not host or is_address(host) else [host]
    bounds = GatewaySettings(
        connections=ConnectionLimits(most=max_connections),
        grace_seconds=grace_seconds,
        api_key_file=api_key_file,
        allowed_hosts=(*named, *(allowed_host or ())),
    )
    held = Camera(camera, HoldLimits(bytes=hold_mb * 2**20, seconds=hold_seconds))
    opened = Gateway(held, server, settings, None if crops == HELD else CameraCrops(crops), max_questions)
    with listen(host, port) as listener:
        url = address_url(listener)
        told = f"{held.name} can be asked about on {url}; {opened.url} answers (Ctrl-C ends it)"
        try:
            serve_gateway(opened, bounds, listener, lambda: typer.echo(told))
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
