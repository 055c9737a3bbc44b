"""Where commands write: standard output that may be full, and terminals that say they have no width."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .errors import WriteError

__all__ = ["on_console", "one_line"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def one_line(text: str) -> str:
    """A message on one line: names of files in it may have breaks and control codes."""
    escaped = (
        letter if letter.isprintable() or letter.isspace() else letter.encode("unicode_escape").decode()
        for letter in text
    )
    return " ".join("".join(escaped).split())


@contextmanager
def on_console() -> Iterator[None]:
    """Run a command in the block: standard output that cannot be written, as on a full disk, is told as such,
    and a width of no columns, which terminals that are not set up report, is taken for an unknown one.

    Raises:
        WriteError: it cannot. What waits to be written is dropped, so that the interpreter's end is quiet.
    """
    columns = os.environ.get("COLUMNS")
    if columns is not None and not columns.strip("0"):  # rich would print nothing but the edges of boxes
        del os.environ["COLUMNS"]
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in _NO_ROOM:
            raise
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
        raise WriteError(f"cannot write the answer: {error.strerror}") from error
    finally:
        if columns is not None:
            os.environ["COLUMNS"] = columns
