"""The command `secondlook-edge`. Standard output carries the answers alone, standard error everything else.

Exit codes:
    0    answered, or watched or streamed to the source's end
    1    the answer could not be written
    2    the picture, the source or an option cannot be used
    3    the server could not be reached, or stayed busy
    4    the server refused, or is no secondlook server
    130  interrupted
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .answer import EdgeAnswer
from .cli_options import (
    DEFAULTS,
    GLOBAL_CHROMA,
    LOCAL_CHROMA,
    ApiKey,
    Certificates,
    GlobalQuality,
    Headers,
    ItsChroma,
    LocalQuality,
    Look,
    LookTwice,
    MaxPixels,
    Server,
    Threshold,
    Timeout,
    Verbose,
    answer_options,
    configure_logging,
    exit_code,
    fail,
    jpeg_settings,
    json_line,
    note,
    parsed_headers,
)
from .cli_stream import stream
from .cli_watch import watch
from .client import EdgeClient
from .console import on_console
from .conversation import Stage
from .errors import SecondLookError, WriteError
from .files import write_files
from .imaging import GLOBAL_JPEG, LOCAL_JPEG, PictureLimits
from .retry import ClientSettings
from .versions import installed_version

__all__ = ["app", "main"]

app = typer.Typer(
    help="Ask a secondlook server about pictures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

STAGES: dict[Stage, str] = {
    "open": "Opening the picture",
    "model": "Asking for the server's model",
    "prepare_global": "Preparing the global image",
    "first_look": "First look",
    "prepare_local": "Cropping the region",
    "second_look": "Second look",
}


def _tell_version(asked: bool) -> None:
    if asked:
        found = installed_version("secondlook-edge", "secondlook")  # alone, or with the server
        typer.echo(f"secondlook-edge {found}" if found else "secondlook-edge, not installed")
        raise typer.Exit


@app.callback()
def commands(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Say the version and exit."),
    ] = False,
) -> None:
    """Ask a secondlook server about pictures."""


@app.command()
def ask(
    picture: Annotated[Path, typer.Argument(help="A picture file.", show_default=False)],
    question: Annotated[str, typer.Argument(help="What to ask about it.", show_default=False)],
    server: Server,
    threshold: Threshold = None,
    look_twice: LookTwice = Look.auto,
    global_quality: GlobalQuality = GLOBAL_JPEG.quality,
    global_chroma: ItsChroma = GLOBAL_CHROMA,
    local_quality: LocalQuality = LOCAL_JPEG.quality,
    local_chroma: ItsChroma = LOCAL_CHROMA,
    timeout: Timeout = DEFAULTS.timeout,
    wait_budget: Annotated[
        float, typer.Option(help="Seconds to wait in all for a server that is away, restarts or is busy.")
    ] = DEFAULTS.wait_budget,
    retries: Annotated[
        int | None,
        typer.Option(help="Most repetitions of a request meanwhile (default: as many as there is time for)."),
    ] = None,
    api_key: ApiKey = None,
    header: Headers = None,
    ca: Certificates = None,
    max_pixels: MaxPixels = DEFAULTS.limits.max_pixels,
    save_crop: Annotated[
        Path | None, typer.Option(help="Save the JPEG sent for the second look, if there was one, here.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of the text.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Ask one question about one picture."""
    notes = Console(stderr=True, highlight=False)
    configure_logging(notes, verbose)
    try:
        settings = ClientSettings(
            timeout=timeout,
            wait_budget=wait_budget,
            retries=retries,
            api_key=api_key,
            headers=parsed_headers(header),
            ca=ca,
            global_jpeg=jpeg_settings(global_quality, global_chroma),
            local_jpeg=jpeg_settings(local_quality, local_chroma),
            limits=PictureLimits(max_pixels=max_pixels),
        )
        options = answer_options(threshold, look_twice)
        with EdgeClient(server, settings=settings) as client, notes.status("Starting") as status:
            answer = client.ask(
                picture, question, options, on_stage=lambda stage: status.update(f"{STAGES[stage]} …")
            )
    except SecondLookError as error:
        raise fail(str(error), exit_code(error)) from error
    except KeyboardInterrupt as interrupt:
        raise fail("interrupted", 130) from interrupt
    typer.echo(json_line(answer.to_dict()) if as_json else answer.text)
    if verbose:
        notes.print(_account(answer))
    if answer.second_look_failed is not None:
        note(f"note: the second look failed, the first answer stands: {answer.second_look_failed}")
    if save_crop is not None:
        _save(save_crop, answer)


app.command()(stream)
app.command()(watch)


def main() -> None:
    """The entry point of `secondlook-edge`."""
    try:
        with on_console():
            app()
    except WriteError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


def _save(path: Path, answer: EdgeAnswer) -> None:
    if answer.local_image is None:
        note(f"note: there was no second look, so nothing was saved to {path}")
        return
    try:
        write_files({path: answer.local_image.jpeg})
    except WriteError as error:
        raise fail(str(error), 2) from error


def _account(answer: EdgeAnswer) -> Table:
    """What each look said and cost."""
    table = Table("", "answer", "uncertainty", "pixels", "bytes up", "bytes down", "seconds")
    looks = [("first look", answer.first), ("second look", answer.second)]
    times = [answer.seconds.first_look, answer.seconds.second_look]
    for index, (name, said) in enumerate(looks[: len(answer.bytes_up)]):
        table.add_row(
            name,
            Text(said.text) if said else "-",
            f"{said.uncertainty:.3f}" if said else "-",
            str(answer.pixels[index]),
            str(answer.bytes_up[index]),
            str(answer.bytes_down[index]),
            f"{times[index]:.3f}",
        )
    where = f", region {answer.region}" if answer.region else ""
    table.caption = f"{answer.decision}{where}; {answer.seconds.total:.3f} s in all"
    return table
