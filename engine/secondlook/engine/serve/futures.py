"""What asyncio lacks for results that come from other threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

__all__ = ["on_loop", "settle"]

ResultT = TypeVar("ResultT")


def on_loop(
    loop: asyncio.AbstractEventLoop, call: Callable[[ResultT], None] | None
) -> Callable[[ResultT], None] | None:
    """What calls it on the loop, from any thread."""
    if call is None:
        return None

    def tell(result: ResultT) -> None:
        loop.call_soon_threadsafe(call, result)

    return tell


def settle(future: asyncio.Future[ResultT], result: ResultT) -> None:
    """Give a future its result, unless it has one, or was cancelled."""
    if not future.done():
        future.set_result(result)
