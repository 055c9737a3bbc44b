"""The command `secondlook site`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import ModelChoice, VerboseOption, with_groups
from secondlook.engine.cli.serving import LogFormatOption, ServerChoice, run_until_stopped
from secondlook.engine.opening import load_engine

if TYPE_CHECKING:
    from secondlook.engine.stream.state import Method

__all__ = ["CLOUD", "MethodChoice", "site"]

STREAMS: Final = "Streams"
CLOUD: Final = "Cloud"


@dataclass(frozen=True)
class MethodChoice:
    """What is done with frames."""

    deadline: Annotated[
        float,
        typer.Option(help="Seconds from a frame's arrival to its answer.", rich_help_panel=STREAMS),
    ] = 0.2
    history_seconds: Annotated[
        float, typer.Option(help="Seconds that an answer is of use.", rich_help_panel=STREAMS)
    ] = 10.0
    focus: Annotated[
        Literal["off", "crop"],
        typer.Option(
            help="crop: after a doubtful frame, the next is looked at closer where it matters.",
            rich_help_panel=STREAMS,
        ),
    ] = "off"
    context: Annotated[
        Literal["auto", "off"],
        typer.Option(
            help="auto: earlier answers stand behind the question, where the model has learnt to read that.",
            rich_help_panel=STREAMS,
        ),
    ] = "auto"
    sure: Annotated[
        float,
        typer.Option(
            help="Up to this doubt, in nats, the model does not look closer, and what it says to an earlier "
            "answer counts.",
            rich_help_panel=STREAMS,
        ),
    ] = 0.1
    change: Annotated[
        float,
        typer.Option(
            help="How often a second the right answer changes: earlier answers are trusted less for it.",
            rich_help_panel=STREAMS,
        ),
    ] = 0.1
    key_frames: Annotated[
        str,
        typer.Option(
            help="Frames that the cloud is asked about: doubt, where no answer is likely; busy, whenever it "
            "has room; or every:SECONDS.",
            rich_help_panel=CLOUD,
        ),
    ] = "doubt"
    cloud_in_flight: Annotated[
        int, typer.Option(min=1, help="Of a stream, asked about at once.", rich_help_panel=CLOUD)
    ] = 1

    def method(self) -> Method:
        """
        Raises:
            SettingsError: a value is impossible.
        """
        from secondlook.engine.stream.keyframes import KeyFrames
        from secondlook.engine.stream.rules import Belief
        from secondlook.engine.stream.state import Method

        return Method(
            rule=Belief(change=self.change),
            sure=self.sure,
            key_frames=KeyFrames.parsed(self.key_frames),
            in_flight=self.cloud_in_flight,
            history_seconds=self.history_seconds,
            focus=self.focus,
        )


def _site(
    model: ModelChoice,
    method: MethodChoice,
    server: ServerChoice,
    cloud: Annotated[
        str | None,
        typer.Option(
            help="The large model's server, such as https://host:8000; by default none is asked.",
            envvar="SECONDLOOK_CLOUD",
            show_default=False,
            rich_help_panel=CLOUD,
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(help="Its key.", envvar="SECONDLOOK_API_KEY", show_default=False, rich_help_panel=CLOUD),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            help="A further header for it, as 'Name: value'; may be given several times.",
            rich_help_panel=CLOUD,
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(help="Certificates (PEM) to trust instead of the usual ones.", rich_help_panel=CLOUD),
    ] = None,
    max_streams: Annotated[
        int, typer.Option(min=1, help="Streams that may be open at once.", rich_help_panel=STREAMS)
    ] = 64,
    idle_seconds: Annotated[
        float, typer.Option(help="Seconds without a frame that end a stream.", rich_help_panel=STREAMS)
    ] = 30.0,
    log_format: LogFormatOption = "text",
    verbose: VerboseOption = 0,
) -> None:
    """Answer cameras' frames by a deadline with a small model, which a cloud's large one teaches."""
    configure_logging(verbose, log_format)
    if cloud is None and (header or ca):
        raise typer.BadParameter("--header and --ca are for a cloud: say which, with --cloud")
    from secondlook.edge.cli_options import parsed_headers
    from secondlook.edge.retry import ClientSettings
    from secondlook.engine.serve.stream_routes import streaming
    from secondlook.engine.stream.cloud import HttpCloud
    from secondlook.engine.stream.service import StreamSettings

    settings = StreamSettings(
        method=method.method(),
        use_context=method.context == "auto",
        deadline=method.deadline,
        idle_seconds=idle_seconds,
        max_streams=max_streams,
    )
    asked = None
    if cloud is not None:
        client = ClientSettings(api_key=api_key, headers=parsed_headers(header), ca=ca)
        asked = HttpCloud(cloud, method.history_seconds, client)
    run_until_stopped(
        lambda: load_engine(model.options(server.kv_cache_gb)),
        model.model,
        server,
        server.settings(),
        streaming(settings, asked),
        " and takes streams" if asked is None else f" and takes streams, which {asked.url} teaches",
    )


site = with_groups(_site, model=ModelChoice, method=MethodChoice, server=ServerChoice)
