"""Pictures that come later, for an edge client that asks about an `Original` which lies elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any

from secondlook.edge.imaging import EncodedPicture

__all__ = ["Later"]


class Later:
    """A coroutine that is made once it is awaited: of one that is made for a client that was cancelled Python
    would warn."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, EncodedPicture]]) -> None:
        self._make = make

    def __await__(self) -> Generator[Any, Any, EncodedPicture]:
        return self._make().__await__()
