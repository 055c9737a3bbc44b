"""Files as wholes: written so that each is there whole or as it was before, and told from mere pointers."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import WriteError

__all__ = ["check_writable", "is_lfs_pointer", "to_disk", "write_files"]

_POINTER = b"version https://git-lfs.github.com/spec/"
_LONGEST_POINTER = 1024


def write_files(contents: Mapping[Path, bytes | str]) -> None:
    """Write files, texts as UTF-8, in place of what is there; folders that lack are made.

    All are written beside their places and are on the disk before the first is renamed. A file keeps its
    permissions; where a link is, what it points to is replaced. What is neither file nor folder, such as
    /dev/stdout, is written to as it is.

    Raises:
        WriteError: one of them cannot be written; what was there before is there still.
    """
    written: dict[Path, tuple[Path, Path]] = {}
    try:
        for path, content in contents.items():
            content = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
            with _refusing(path):
                if _is_special(path):
                    path.write_bytes(content)
                    continue
                target = _target(path)
                partial = _beside(target)
                written[path] = partial, target
                with partial.open("xb") as file:
                    file.write(content)
                if target.exists():
                    shutil.copymode(target, partial)
                to_disk(partial)
        for path, (partial, target) in written.items():
            with _refusing(path):
                partial.replace(target)
                to_disk(target.parent)
    finally:
        for partial, _ in written.values():
            with suppress(OSError):
                partial.unlink()


def check_writable(path: Path) -> None:
    """Make sure, before the long work, that a file can be written; what is there stays as it is.

    Raises:
        WriteError: it cannot.
    """
    with _refusing(path):
        if not _is_special(path):
            partial = _beside(_target(path))
            partial.touch(exist_ok=False)
            partial.unlink()


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is what `git clone` leaves without Git LFS: a small text in place of the large file.

    Raises:
        OSError: it cannot be read.
    """
    if path.stat().st_size > _LONGEST_POINTER:
        return False
    return path.read_bytes().startswith(_POINTER)


def to_disk(*paths: Path) -> None:
    """Wait until files, and the names in folders, are on the disk.

    Raises:
        OSError: they do not get there.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _target(path: Path) -> Path:
    """The file that is replaced: renaming alone would not ask whether it may be."""
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return target


def _beside(target: Path) -> Path:
    return target.with_name(f".secondlook-{secrets.token_hex(8)}.partial")


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"cannot write {path}: {error.strerror or error}; make room, or choose another place"
        ) from error
