"""Where what was found out or built once is kept: a folder of the user's own.

What is in it was made by this user, and is opened without asking.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from secondlook.edge.errors import SettingsError

__all__ = ["cache_folder"]

_VARIABLE: Final = "SECONDLOOK_CACHE"


def cache_folder(kind: str) -> Path:
    """The folder of a kind of thing, in SECONDLOOK_CACHE or in `secondlook` in the user's cache folder.

    Raises:
        SettingsError: there is no home folder to have it in.
    """
    named = os.environ.get(_VARIABLE)
    if named:
        return Path(named) / kind
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise SettingsError(f"there is no home folder; name a folder in {_VARIABLE}") from error
    return base / "secondlook" / kind
