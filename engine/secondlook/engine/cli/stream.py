"""The command `secondlook stream`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import DeviceOption, DTypeOption, VerboseOption, with_groups
from secondlook.engine.cli.site import CLOUD, MethodChoice
from secondlook.engine.opening import EngineOptions, load_engine, loading_status

__all__ = ["stream"]


def _stream(
    source: Annotated[
        str,
        typer.Argument(
            help="A camera (rtsp://…, http://… for MJPEG, /dev/video0), a video, a folder of pictures, or a "
            "pattern of their names in quotes.",
            show_default=False,
        ),
    ],
    question: Annotated[str, typer.Argument(help="What to ask of every frame.", show_default=False)],
    method: MethodChoice,
    small: Annotated[str, typer.Option(help="The site's model, as for `secondlook serve`.")] = "demo",
    large: Annotated[
        str | None,
        typer.Option(
            help="The cloud's model; by default there is no cloud.", show_default=False, rich_help_panel=CLOUD
        ),
    ] = None,
    delay: Annotated[
        float,
        typer.Option(
            min=0.0, help="Seconds that each of the cloud's answers takes at least.", rich_help_panel=CLOUD
        ),
    ] = 0.0,
    fps: Annotated[
        float, typer.Option(min=0.01, max=1000, help="Most frames a second; of pictures, as many.")
    ] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a frame.")] = False,
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    verbose: VerboseOption = 0,
) -> None:
    """Try a stream with camera, site and cloud in this process, a line an answer.

    Ends with the video or the folder, or when interrupted, with a summary on standard error.
    """
    configure_logging(verbose)
    from secondlook.edge.cli_stream import frame_json, frame_line, has_no_rate, told_summary
    from secondlook.edge.errors import PictureError
    from secondlook.edge.frames import Frame
    from secondlook.edge.sources import open_source
    from secondlook.edge.wire_stream import FrameReply, StreamSummary
    from secondlook.engine.stream.local import stream_locally
    from secondlook.engine.stream.service import StreamSettings

    settings = StreamSettings(
        method=method.method(), use_context=method.context == "auto", deadline=method.deadline
    )
    with loading_status(small):
        site = load_engine(EngineOptions(small, dtype, device))
    cloud = None
    if large is not None:
        with loading_status(large):
            cloud = load_engine(EngineOptions(large, dtype, device))

    def tell(frame: Frame, reply: FrameReply) -> None:
        typer.echo(frame_json(frame, reply) if as_json else frame_line(reply))

    def warn(frame: Frame, error: PictureError) -> None:
        typer.echo(f"warning: frame {frame.number} is passed over: {error}", err=True)

    def sum_up(summary: StreamSummary) -> None:
        typer.echo(told_summary(summary), err=True)

    # Not before: a recording plays on, whoever is being loaded.
    opened = open_source(source, fps=fps if has_no_rate(source) else None)
    told = tell, warn, sum_up
    asyncio.run(stream_locally(site, cloud, opened, question, settings, delay, 1 / fps, *told))


stream = with_groups(_stream, method=MethodChoice)
