"""Work for a client that may go away: nobody waits for it then, and it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import HTTPException, Request

__all__ = ["ClientGoneError", "while_connected"]

ResultT = TypeVar("ResultT")

_CLIENT_CLOSED_REQUEST = 499
"""What proxies log for a request whose client did not wait; nobody reads the reply."""


class ClientGoneError(HTTPException):
    """The client closed its connection before the reply."""

    def __init__(self) -> None:
        super().__init__(_CLIENT_CLOSED_REQUEST, "the client closed the connection")


async def while_connected(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The work's result; the work is cancelled when the client goes away, its body read by then.

    Raises:
        ClientGoneError: it did.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
