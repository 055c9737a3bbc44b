"""The command `secondlook-edge`. Standard output carries the answer alone, standard error everything else.

Exit codes:
    0    answered
    1    the answer could not be written
    2    the picture or an option cannot be used
    3    the server could not be reached, or stayed busy
    4    the server refused, or is no secondlook server
    130  interrupted
"""

from __future__ import annotations

import json
import logging
import math
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .answer import EdgeAnswer
from .client import EdgeClient
from .console import on_console, one_line
from .conversation import Stage
from .errors import (
    ConnectionFailedError,
    RequestRefusedError,
    SecondLookError,
    ServerBusyError,
    SettingsError,
    UnexpectedReplyError,
    WriteError,
)
from .files import write_files
from .imaging import GLOBAL_JPEG, LOCAL_JPEG, JpegSettings, PictureLimits
from .retry import ClientSettings
from .versions import installed_version
from .wire import AnswerOptions

__all__ = ["app", "main"]

app = typer.Typer(
    help="Ask a secondlook server about pictures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Look(str, Enum):
    """When a second look may take place."""

    auto = "auto"
    always = "always"
    never = "never"


class Chroma(str, Enum):
    """JPEG chroma subsampling."""

    full = "4:4:4"
    half = "4:2:2"
    quarter = "4:2:0"


GLOBAL_CHROMA = Chroma(GLOBAL_JPEG.subsampling)
LOCAL_CHROMA = Chroma(LOCAL_JPEG.subsampling)

STAGES: dict[Stage, str] = {
    "open": "Opening the picture",
    "model": "Asking for the server's model",
    "prepare_global": "Preparing the global image",
    "first_look": "First look",
    "prepare_local": "Cropping the region",
    "second_look": "Second look",
}

DEFAULTS = ClientSettings()


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
    server: Annotated[
        str, typer.Option(help="The server's address, such as http://host:8000.", envvar="SECONDLOOK_SERVER")
    ],
    threshold: Annotated[
        float | None,
        typer.Option(min=0, help="Uncertainty from which to look twice (default: the server's)."),
    ] = None,
    look_twice: Annotated[
        Look, typer.Option(help="When to look twice: when unsure, always or never.")
    ] = Look.auto,
    global_quality: Annotated[
        int, typer.Option(help="JPEG quality of the first look.")
    ] = GLOBAL_JPEG.quality,
    global_chroma: Annotated[Chroma, typer.Option(help="Its chroma subsampling.")] = GLOBAL_CHROMA,
    local_quality: Annotated[int, typer.Option(help="JPEG quality of the second look.")] = LOCAL_JPEG.quality,
    local_chroma: Annotated[Chroma, typer.Option(help="Its chroma subsampling.")] = LOCAL_CHROMA,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for one reply.")] = DEFAULTS.timeout,
    wait_budget: Annotated[
        float, typer.Option(help="Seconds to wait in all for a server that is away, restarts or is busy.")
    ] = DEFAULTS.wait_budget,
    retries: Annotated[
        int | None,
        typer.Option(help="Most repetitions of a request meanwhile (default: as many as there is time for)."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(help="The server's key.", envvar="SECONDLOOK_API_KEY", show_default=False),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(help="A further header of every request, as 'Name: value'; may be given several times."),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(help="Certificates (PEM) to trust instead of the usual ones (default: SSL_CERT_FILE)."),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(help="Most pixels of a picture that is decoded.")
    ] = DEFAULTS.limits.max_pixels,
    save_crop: Annotated[
        Path | None, typer.Option(help="Save the JPEG sent for the second look, if there was one, here.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of the text.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more, on standard error.")] = False,
) -> None:
    """Ask one question about one picture."""
    notes = Console(stderr=True, highlight=False)
    _configure_logging(notes, verbose)
    try:
        settings = ClientSettings(
            timeout=timeout,
            wait_budget=wait_budget,
            retries=retries,
            api_key=api_key,
            headers=dict(map(_name_and_value, header or ())),
            ca=ca,
            global_jpeg=JpegSettings(global_quality, global_chroma.value),
            local_jpeg=JpegSettings(local_quality, local_chroma.value),
            limits=PictureLimits(max_pixels=max_pixels),
        )
        options = AnswerOptions(threshold=_finite(threshold), second_look=look_twice.value)
        with EdgeClient(server, settings=settings) as client, notes.status("Starting") as status:
            answer = client.ask(
                picture, question, options, on_stage=lambda stage: status.update(f"{STAGES[stage]} …")
            )
    except SecondLookError as error:
        raise _fail(str(error), _exit_code(error)) from error
    except KeyboardInterrupt as interrupt:
        raise _fail("interrupted", 130) from interrupt
    typer.echo(json.dumps(answer.to_dict(), ensure_ascii=False) if as_json else answer.text)
    if verbose:
        notes.print(_account(answer))
    if answer.second_look_failed is not None:
        _note(f"note: the second look failed, the first answer stands: {answer.second_look_failed}")
    if save_crop is not None:
        _save(save_crop, answer)


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
        _note(f"note: there was no second look, so nothing was saved to {path}")
        return
    try:
        write_files({path: answer.local_image.jpeg})
    except WriteError as error:
        raise _fail(str(error), 2) from error


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


class _NotesHandler(logging.Handler):
    """Log records as notes."""

    def __init__(self, notes: Console) -> None:
        super().__init__()
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        text = one_line(f"{record.levelname.lower()}: {record.getMessage()}")
        self._notes.print(text, markup=False, soft_wrap=True)  # above the spinner


def _configure_logging(notes: Console, verbose: bool) -> None:
    """Log to standard error, Python's warnings (such as Pillow's about odd files) included."""
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(level=level, handlers=[_NotesHandler(notes)], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if not verbose:
        logging.getLogger("secondlook.edge.exchange").setLevel(logging.WARNING)  # that it waits, and why
    logging.captureWarnings(True)


def _finite(threshold: float | None) -> float | None:
    if threshold is not None and not math.isfinite(threshold):
        raise SettingsError(f"the threshold must be a finite number, not {threshold}")
    return threshold


def _name_and_value(header: str) -> tuple[str, str]:
    name, colon, value = header.partition(":")
    if not colon:  # not shown: it may be a secret
        raise SettingsError("a header must look like 'Name: value'; one given has no colon")
    return name.strip(), value.strip()


def _exit_code(error: SecondLookError) -> int:
    if isinstance(error, ConnectionFailedError | ServerBusyError):
        return 3
    return 4 if isinstance(error, RequestRefusedError | UnexpectedReplyError) else 2


def _note(text: str) -> None:
    """One line, however wide the terminal is."""
    typer.echo(one_line(text), err=True)


def _fail(text: str, code: int) -> typer.Exit:
    _note(f"error: {text}")
    return typer.Exit(code)
