"""How commands log: to stderr, in colour on a terminal, in whole lines elsewhere, or as JSON for programs."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from datetime import datetime, timezone
from typing import Literal

from rich.console import Console
from rich.logging import RichHandler

from secondlook.engine.serve.requests import request_id

__all__ = ["LogFormat", "configure_logging"]

LogFormat = Literal["text", "json"]


def configure_logging(verbose: int, log_format: LogFormat = "text") -> None:
    """Log warnings to stderr, information too with one -v, everything with two. For commands, once each."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=level, handlers=[_handler(verbose, log_format)], force=True)
    logging.captureWarnings(True)
    warnings.formatwarning = lambda message, *_arguments, **_more: str(message)  # not where it was raised
    # The one warns of every malformed body that a client sends; the other tells URLs with sessions' ids.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # That operators are being built is always said: it happens once, and takes a while.
    logging.getLogger("secondlook.kernels").setLevel(min(level, logging.INFO))
    # And what was measured, on which rests what encodes from then on.
    logging.getLogger("secondlook.engine.encoders.fastest").setLevel(min(level, logging.INFO))


def _handler(verbose: int, log_format: LogFormat) -> logging.Handler:
    handler: logging.Handler = logging.StreamHandler()
    if log_format == "json":
        handler.setFormatter(_JsonLines())
    elif sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=verbose > 1)
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s%(of_request)s", datefmt="[%X]"))
    else:  # Rich would wrap lines at 80 columns, wherever they go
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s%(of_request)s")
        )
    handler.addFilter(_with_request)
    return handler


def _with_request(record: logging.LogRecord) -> bool:
    """Say in a record which request it is about, if it is about one."""
    named = getattr(record, "request_id", "") or request_id.get()
    record.request_id, record.of_request = named, f" [{named}]" if named else ""
    return True


class _JsonLines(logging.Formatter):
    """One object a line, with `time` (UTC), `level`, `logger`, `message`, and where there are any
    `request_id` and `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if named := getattr(record, "request_id", ""):
            told["request_id"] = named
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)
