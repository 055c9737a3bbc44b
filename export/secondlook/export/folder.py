"""A folder that is there whole, or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from secondlook.edge.files import to_disk
from secondlook.engine.encoders.manifest import MANIFEST_FILE
from secondlook.export.errors import OutputError

__all__ = ["check_output", "replacing", "whole_folder"]


def check_output(output: Path, *, overwrite: bool, manifest: str = MANIFEST_FILE) -> None:
    """Refuse, before the long work, a folder that could not be written after it.

    Args:
        overwrite: replace a folder of the same kind, which has this `manifest`.

    Raises:
        OutputError: it is there already and must not be overwritten, or is something else.
    """
    if not output.exists() and not output.is_symlink():
        return
    if not overwrite:
        raise OutputError(f"{output} is there already; choose another --output, or add --overwrite")
    if output.is_symlink() or not output.is_dir():
        raise OutputError(
            f"{output} is no folder, and only its own kind is replaced; choose another --output"
        )
    if any(output.iterdir()) and not (output / manifest).is_file():
        raise OutputError(
            f"{output} has no {manifest}, and only its own kind is replaced; choose another --output"
        )


@contextmanager
def whole_folder(output: Path, *, overwrite: bool = False, manifest: str = MANIFEST_FILE) -> Iterator[Path]:
    """A hidden folder beside `output` to write into, which takes its place when the block is done.

    After an error it is removed. A process that was killed leaves it, and the next one removes it; `output`
    itself is only ever whole. One that was killed in the moment of replacing leaves the old folder under a
    hidden name, and the next one puts it back.

    Raises:
        OutputError: the folder is there already, is being written by another process, or the disk is full.
    """
    try:
        output.absolute().parent.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(_lock_file(output), blocking=False),
            replacing(
                output, lambda: check_output(output, overwrite=overwrite, manifest=manifest)
            ) as partial,
        ):
            yield partial
    except Timeout as error:
        raise OutputError(f"another process is writing {output}; wait for it") from error
    except OSError as error:
        raise OutputError(
            f"cannot write {output}: {error.strerror or error}; make room, or choose another --output"
        ) from error


@contextmanager
def replacing(output: Path, check: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """`whole_folder` for one who has the folder's lock.

    Args:
        check: called before the block, and after it, when only the name is missing.

    Raises:
        OSError: the folder cannot be written.
    """
    parent = output.absolute().parent
    partial, old = (parent / f".{output.name}.{kind}" for kind in ("partial", "old"))
    _clear_up(partial, output, old)
    check()
    partial.mkdir()
    try:
        yield partial
        to_disk(*partial.iterdir(), partial)
        check()
        _replace(partial, output, old)
        to_disk(parent)
    finally:
        _clear_up(partial, output, old)


def _lock_file(output: Path) -> Path:
    """One for each folder, and not beside it, where it would stay."""
    key = hashlib.sha256(os.fsencode(output.absolute())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"secondlook-export-{key}.lock"


def _replace(new: Path, output: Path, old: Path) -> None:
    """Two renames where there is something to replace: between them nothing is there, never a half."""
    if output.exists():
        output.rename(old)
    new.rename(output)


def _clear_up(partial: Path, output: Path, old: Path) -> None:
    """What this process, or one that was killed, did not finish: what was to be replaced is back."""
    _remove(partial)
    if old.exists() and not output.exists():
        old.rename(output)
    _remove(old)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
