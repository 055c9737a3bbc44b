"""What the commands that ask a server share: their options, what is made of them, and how they fail."""

from __future__ import annotations

import json
import logging
import math
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console

from .console import one_line
from .errors import (
    ConnectionFailedError,
    RequestRefusedError,
    SecondLookError,
    ServerBusyError,
    SettingsError,
    UnexpectedReplyError,
)
from .imaging import GLOBAL_JPEG, LOCAL_JPEG, JpegSettings
from .retry import ClientSettings
from .wire import AnswerOptions

__all__ = [
    "DEFAULTS",
    "GLOBAL_CHROMA",
    "LOCAL_CHROMA",
    "answer_options",
    "configure_logging",
    "exit_code",
    "fail",
    "jpeg_settings",
    "json_line",
    "note",
    "parsed_headers",
]


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

DEFAULTS = ClientSettings()

Server: TypeAlias = Annotated[
    str, typer.Option(help="The server's address, such as http://host:8000.", envvar="SECONDLOOK_SERVER")
]
Threshold: TypeAlias = Annotated[
    float | None,
    typer.Option(min=0, help="Uncertainty from which to look twice (default: the server's)."),
]
LookTwice: TypeAlias = Annotated[Look, typer.Option(help="When to look twice: when unsure, always or never.")]
GlobalQuality: TypeAlias = Annotated[int, typer.Option(help="JPEG quality of the first look.")]
LocalQuality: TypeAlias = Annotated[int, typer.Option(help="JPEG quality of the second look.")]
ItsChroma: TypeAlias = Annotated[Chroma, typer.Option(help="Its chroma subsampling.")]
Timeout: TypeAlias = Annotated[float, typer.Option(help="Seconds to wait for one reply.")]
ApiKey: TypeAlias = Annotated[
    str | None, typer.Option(help="The server's key.", envvar="SECONDLOOK_API_KEY", show_default=False)
]
Headers: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--header", help="A further header of every request, as 'Name: value'; may be given several times."
    ),
]
Certificates: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Certificates (PEM) to trust instead of the usual ones (default: SSL_CERT_FILE)."),
]
MaxPixels: TypeAlias = Annotated[int, typer.Option(help="Most pixels of a picture that is decoded.")]
Verbose: TypeAlias = Annotated[bool, typer.Option("--verbose", "-v", help="Say more, on standard error.")]


def answer_options(threshold: float | None, look_twice: Look) -> AnswerOptions:
    """
    Raises:
        SettingsError: the threshold is no finite number.
    """
    if threshold is not None and not math.isfinite(threshold):
        raise SettingsError(f"the threshold must be a finite number, not {threshold}")
    return AnswerOptions(threshold=threshold, second_look=look_twice.value)


def jpeg_settings(quality: int, chroma: Chroma) -> JpegSettings:
    """
    Raises:
        SettingsError: the quality is out of its range.
    """
    return JpegSettings(quality, chroma.value)


def parsed_headers(given: list[str] | None) -> dict[str, str]:
    """
    Raises:
        SettingsError: one has no colon.
    """
    return dict(map(_name_and_value, given or ()))


def _name_and_value(header: str) -> tuple[str, str]:
    name, colon, value = header.partition(":")
    if not colon:  # not shown: it may be a secret
        raise SettingsError("a header must look like 'Name: value'; one given has no colon")
    return name.strip(), value.strip()


class _NotesHandler(logging.Handler):
    """Log records as notes."""

    def __init__(self, notes: Console) -> None:
        super().__init__()
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        text = one_line(f"{record.levelname.lower()}: {record.getMessage()}")
        self._notes.print(text, markup=False, soft_wrap=True)  # above the spinner


def configure_logging(notes: Console, verbose: bool) -> None:
    """Log to standard error, Python's warnings (such as Pillow's about odd files) included."""
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(level=level, handlers=[_NotesHandler(notes)], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if not verbose:
        # That it waits for a server or a camera, and why.
        for name in ("exchange", "frames"):
            logging.getLogger(f"secondlook.edge.{name}").setLevel(logging.WARNING)
    logging.captureWarnings(True)


def exit_code(error: SecondLookError) -> int:
    """A command's status for an error: what the head of `cli` says."""
    if isinstance(error, ConnectionFailedError | ServerBusyError):
        return 3
    return 4 if isinstance(error, RequestRefusedError | UnexpectedReplyError) else 2


def json_line(told: dict[str, Any]) -> str:
    """One JSON object. What is no Unicode, as a file's name in an error may be, is escaped."""
    return json.dumps(told, ensure_ascii=False).encode(errors="backslashreplace").decode()


def note(text: str) -> None:
    """One line on standard error, however wide the terminal is."""
    typer.echo(one_line(text), err=True)


def fail(text: str, code: int) -> typer.Exit:
    """What to raise to end a command, after the error was told."""
    note(f"error: {text}")
    return typer.Exit(code)
