"""Which version of something is installed."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

__all__ = ["installed_version"]


def installed_version(*names: str) -> str | None:
    """The version of the first of these distributions that is installed.

    None if none is, as where our own code is run from sources that nobody installed.
    """
    for name in names:
        with suppress(PackageNotFoundError):
            return version(name)
    return None
