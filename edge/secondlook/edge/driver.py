"""What carries out a client's steps: it sends requests, lets time pass, and computes."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any, Final

import httpx

from .errors import SecondLookError, UnexpectedReplyError
from .exchange import Call, Effect, Failure, Pause, Result, Steps, Surroundings, resume
from .retry import ClientSettings
from .route import Route
from .wire import PROTOCOL, PROTOCOL_HEADER

__all__ = ["SURROUNDINGS", "AsyncDriver", "Driver"]

SURROUNDINGS = Surroundings(
    clock=time.perf_counter,
    now=lambda: datetime.now(timezone.utc),
    jitter=random.random,
)
"""The world as it is."""

_MOST_REPLY: Final = 16_000_000
"""Bytes of a reply that are read. The largest part of one is a map, a byte a cell."""


class Driver:
    """Carries out steps one after another, over one connection that is kept. Not for several threads at once.

    Args:
        transport: an httpx transport, in place of the network and of the environment's proxy.
        sleep: lets seconds pass.

    Raises:
        SettingsError: the address is not one of HTTP, or a proxy or certificates cannot be used.
    """

    def __init__(
        self,
        server_url: str,
        settings: ClientSettings,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.route = Route.to(server_url, settings.ca, direct=transport is not None)
        self._http = httpx.Client(transport=transport, **_http_options(self.route, settings))
        self._sleep = sleep

    def drive(self, steps: Steps[Result]) -> Result:
        """The steps' result; raises what they raise."""
        try:
            effect = next(steps)
            while True:
                effect = resume(steps, self._perform(effect))
        except StopIteration as finished:
            result: Result = finished.value
            return result

    def _perform(self, effect: Effect) -> object:
        try:
            if isinstance(effect, Call):
                reply = _Reply(self._http.send(_request(self._http, effect), stream=True))
                try:
                    for part in reply.response.iter_bytes():
                        reply.take(part)
                finally:
                    reply.response.close()
                return reply.whole()
            if isinstance(effect, Pause):
                self._sleep(effect.seconds)
                return None
            return effect.function()
        except httpx.RequestError as error:
            return Failure(self.route.lost(error))
        except SecondLookError as error:
            return Failure(error)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


class AsyncDriver:
    """`Driver` for asyncio, of several steps at once; what takes a while is computed in a thread."""

    def __init__(
        self,
        server_url: str,
        settings: ClientSettings,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.route = Route.to(server_url, settings.ca, direct=transport is not None)
        self._http = httpx.AsyncClient(transport=transport, **_http_options(self.route, settings))
        self._sleep = sleep

    async def drive(self, steps: Steps[Result]) -> Result:
        """As `Driver.drive`."""
        try:
            effect = next(steps)
            while True:
                effect = resume(steps, await self._perform(effect))
        except StopIteration as finished:
            result: Result = finished.value
            return result

    async def _perform(self, effect: Effect) -> object:
        try:
            if isinstance(effect, Call):
                reply = _Reply(await self._http.send(_request(self._http, effect), stream=True))
                try:
                    async for part in reply.response.aiter_bytes():
                        reply.take(part)
                finally:
                    await reply.response.aclose()
                return reply.whole()
            if isinstance(effect, Pause):
                await self._sleep(effect.seconds)
                return None
            outcome = await asyncio.to_thread(effect.function)
            return await outcome if inspect.isawaitable(outcome) else outcome
        except httpx.RequestError as error:
            return Failure(self.route.lost(error))
        except SecondLookError as error:
            return Failure(error)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


class _Reply:
    """One that is being read, as long as its body is none that fills the memory."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._body = bytearray()

    def take(self, part: bytes) -> None:
        self._body += part
        if len(self._body) > _MOST_REPLY:
            url = self.response.request.url.copy_with(userinfo=b"")
            raise UnexpectedReplyError(
                f"{url} answers with more than {_MOST_REPLY} bytes; is this a secondlook server?"
            )

    def whole(self) -> httpx.Response:
        headers = [
            (name, value)
            for name, value in self.response.headers.items()
            if name not in ("content-encoding", "content-length", "transfer-encoding")  # it is decoded
        ]
        return httpx.Response(
            self.response.status_code,
            headers=headers,
            content=bytes(self._body),
            extensions=self.response.extensions,
            request=self.response.request,
        )


def _http_options(route: Route, settings: ClientSettings) -> dict[str, Any]:
    key = {} if settings.api_key is None else {"authorization": f"Bearer {settings.api_key}"}
    # Replies are small; without compression, their length is what travels.
    ours = {"accept": "application/json", "accept-encoding": "identity", PROTOCOL_HEADER: PROTOCOL}
    headers = httpx.Headers(ours | key)
    headers.update(settings.headers)  # whatever the case of their names
    return {
        **route.options(),
        "timeout": httpx.Timeout(settings.timeout, connect=settings.connect_timeout),
        "headers": headers,
    }


def _request(http: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
    request = http.build_request(call.method, call.path, **call.parts())
    request.read()  # whole, or each part of its body would travel in a packet of its own
    return request
