"""Requests to an upstream: sent, repeated while there is patience, and told of in errors with its name."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
from pydantic import ValidationError

from secondlook.edge.driver import SURROUNDINGS
from secondlook.edge.exchange import Surroundings
from secondlook.edge.retry import BUSY_STATUSES, GATEWAY_STATUSES, backoff_seconds, retry_after_seconds
from secondlook.edge.route import Route
from secondlook.engine.errors import UpstreamAwayError, UpstreamError, UpstreamTimeoutError
from secondlook.engine.upstream.chunks import Chunk, events
from secondlook.engine.upstream.settings import UpstreamSettings

__all__ = ["UpstreamClient"]

_MOST_BYTES: Final = 16_000_000
"""Of a reply that are read."""

_MOST_TOLD: Final = 300
"""Characters of a refusal that are told."""

_CHECK_SECONDS: Final = 3.0
_CHECKED_SECONDS: Final = 1.0
"""How long it is taken to be as it was found."""

_DONE: Final = b"[DONE]"
_EVENTS: Final = "text/event-stream"


@dataclass(eq=False)
class _FaultError(Exception):
    """What a try failed of, and whether and when another may do better."""

    error: UpstreamError
    again: bool
    retry_after: float = 0.0


class UpstreamClient:
    """An upstream as its requests' sender. Its coroutines belong to one event loop; `check` to no one's.

    Args:
        transport: an httpx transport, in place of the network and of the environment's proxy.
        surroundings: clock, date and chance.

    Attributes:
        name: its address, fit to be shown.

    Raises:
        SettingsError: the address is not one of HTTP, or a proxy or certificates cannot be used.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        transport: httpx.AsyncBaseTransport | None = None,
        surroundings: Surroundings = SURROUNDINGS,
    ) -> None:
        self._settings, self._surroundings = settings.client, surroundings
        self._route = Route.to(_with_path(settings.url), settings.client.ca, direct=transport is not None)
        self.name = str(self._route.url.copy_with(userinfo=b"")).rstrip("/")
        given = settings.client
        key = {} if given.api_key is None else {"authorization": f"Bearer {given.api_key}"}
        self._options = self._route.options() | {"headers": {**given.headers, **key}}
        # A look has two requests under way at most: its answer, and the box that it asks for.
        limits = httpx.Limits(max_connections=2 * settings.slots, max_keepalive_connections=settings.slots)
        timeout = httpx.Timeout(given.timeout, connect=given.connect_timeout, pool=None)
        self._http = httpx.AsyncClient(
            **self._options, transport=transport, timeout=timeout, limits=limits, follow_redirects=False
        )
        self._checking, self._checked = threading.Lock(), -_CHECKED_SECONDS
        self._away: UpstreamError | None = None

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def models(self) -> list[str]:
        """The names of its models."""
        try:
            async with self._requested("GET", "models", None) as response:
                content = await self._read(response)
        except _FaultError as fault:
            raise fault.error from fault
        return self._models(content)

    async def completion(self, body: dict[str, Any]) -> AsyncGenerator[Chunk, None]:
        """The chunks of an answer. Tried again only as long as there was none.

        Raises:
            UpstreamError: and its kinds; see `secondlook.engine.errors`.
        """
        clock, left = self._surroundings.clock, self._settings.wait_budget
        for attempt in itertools.count():
            began, answered = clock(), False
            try:
                async with aclosing(self._tried(body)) as chunks:
                    async for chunk in chunks:
                        answered = True
                        yield chunk
                return
            except _FaultError as fault:
                jitter = self._surroundings.jitter()
                wait = max(backoff_seconds(self._settings, attempt, jitter), fault.retry_after)
                left -= clock() - began + wait
                retries = self._settings.retries
                if answered or not fault.again or left < 0 or (retries is not None and attempt >= retries):
                    raise fault.error from fault
            await asyncio.sleep(wait)

    def check(self) -> None:
        """Ask it whether it is there, but not more than once a second. Blocks; for any thread.

        Raises:
            UpstreamError: it is not.
        """
        clock = self._surroundings.clock
        with self._checking:
            if clock() - self._checked >= _CHECKED_SECONDS:
                self._away = self._found_away()
                self._checked = clock()
            away = self._away
        if away is not None:
            raise type(away)(str(away))

    def _found_away(self) -> UpstreamError | None:
        try:
            with httpx.Client(**self._options, timeout=_CHECK_SECONDS) as client:
                response = client.get("models")
        except httpx.RequestError as error:
            return self._lost(error).error
        return None if response.is_success else self._refused(response, response.content).error

    async def _tried(self, body: dict[str, Any]) -> AsyncGenerator[Chunk, None]:
        clock, waited, finished = self._surroundings.clock, 0.0, False
        began = clock()
        async with self._requested("POST", "chat/completions", body) as response:
            kind = response.headers.get("content-type", "")
            if not kind.startswith(_EVENTS):
                raise _FaultError(self._wrong(f"it answered with {kind[:100]!r}, not with a stream"), False)
            async with aclosing(events(response.aiter_bytes(), _MOST_BYTES)) as told:
                async for data in told:
                    waited += clock() - began  # without what its reader does meanwhile
                    if data == _DONE:
                        return
                    chunk = self._chunk(data)
                    finished |= chunk.finished
                    yield chunk
                    if waited > self._settings.timeout:
                        late = f"the upstream {self.name} took longer than {self._settings.timeout:g} s"
                        raise _FaultError(UpstreamTimeoutError(late), False)
                    began = clock()
        if not finished:
            raise _FaultError(self._wrong("it ended its answer in the middle"), True)

    @asynccontextmanager
    async def _requested(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> AsyncIterator[httpx.Response]:
        """A reply of success, to be read in the block; raises _FaultError."""
        try:
            async with self._http.stream(method, path, json=body) as response:
                if not response.is_success:
                    raise self._refused(response, await self._read(response))
                yield response
        except httpx.RequestError as error:
            raise self._lost(error) from error

    async def _read(self, response: httpx.Response) -> bytes:
        content = b""
        async for part in response.aiter_bytes():
            content += part
            if len(content) > _MOST_BYTES:
                break
        return content

    def _chunk(self, data: bytes) -> Chunk:
        try:
            chunk = Chunk.model_validate_json(data)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, problem["loc"])) or "it"
            raise _FaultError(
                self._wrong(f"it sent what is no chunk of an answer ({where}: {problem['msg']})"), False
            ) from error
        if chunk.error is not None:
            raise _FaultError(self._wrong(f"it broke off: {self._reason(data)}"), False)
        return chunk

    def _models(self, content: bytes) -> list[str]:
        try:
            return [str(model["id"]) for model in json.loads(content)["data"]]
        except (ValueError, TypeError, LookupError) as error:
            raise self._wrong("it does not tell its models as OpenAI's interface does") from error

    def _refused(self, response: httpx.Response, content: bytes) -> _FaultError:
        """What is told of a status that is no success; the next try may do better where it is busy."""
        status, reason = response.status_code, self._reason(content)
        told = f"({status}) {reason}" if reason else f"({status})"
        now = self._surroundings.now()
        after = retry_after_seconds(response.headers.get("retry-after"), now) or 0.0
        if status in BUSY_STATUSES:
            return _FaultError(UpstreamAwayError(f"the upstream {self.name} is busy: {told}"), True, after)
        if status in (401, 403):
            return _FaultError(self._wrong(f"it refuses the key, or wants one: {told}"), False)
        if status == 504:
            late = f"the upstream {self.name} did not answer in time: {told}"
            return _FaultError(UpstreamTimeoutError(late), True, after)
        again = status in GATEWAY_STATUSES
        return _FaultError(self._wrong(f"it refused a request: {told}"), again, after)

    def _lost(self, error: httpx.RequestError) -> _FaultError:
        lost = self._route.lost(error)
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            seconds = self._settings.timeout
            late = f"the upstream {self.name} sent nothing for {seconds:g} s"
            return _FaultError(UpstreamTimeoutError(late), True)
        away = UpstreamAwayError(f"the upstream {self.name} is away: {self._without_key(str(lost))}")
        return _FaultError(away, not lost.hopeless)

    def _wrong(self, what: str) -> UpstreamError:
        return UpstreamError(f"the upstream {self.name} failed: {what}")

    def _reason(self, content: bytes) -> str:
        """What an error's body says, in one line."""
        told: object
        try:
            told = json.loads(content)
        except ValueError:
            told = content.decode(errors="replace")
        if isinstance(told, dict):
            told = told.get("error", told)
        if isinstance(told, dict):
            told = told.get("message", told)
        return self._without_key(" ".join(str(told).split()))[:_MOST_TOLD]

    def _without_key(self, text: str) -> str:
        """Some servers repeat the key that they refuse."""
        key = self._settings.api_key
        return text if key is None else text.replace(key, "…")


def _with_path(url: str) -> str:
    """An upstream's address, with OpenAI's path where it has none."""
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL:
        return url  # which is told of where it is checked
    return str(found.copy_with(path="/v1")) if found.path in ("", "/") else url
