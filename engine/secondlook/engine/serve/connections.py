"""Connections: what a client may owe, and for how long.

uvicorn has no deadline for a request's headers, its body, or the reading of the reply, and no bound on
connections that would keep silent ones from locking the others out. A `Connection` is uvicorn's with these:

* whatever a client owes (the next request, its headers, the rest of its body, the reading of the reply), it
  owes until a deadline;
* there are at most so many connections. For one more, the oldest go of those that do not wait for an answer,
  of the address that has most of them;
* what cannot be parsed is answered with an error like the application's, as far as is known whom it was asked
  of, and logged in one line, and in not too many lines.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import ssl
from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, cast
from urllib.parse import unquote

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from secondlook.edge.errors import SettingsError
from secondlook.engine.serve.errors import error_content
from secondlook.engine.serve.settings import ConnectionLimits
from secondlook.engine.serve.tls import Handshake, Handshakes

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = ["Connection", "ConnectionConfig", "connections_allowed"]

_log = logging.getLogger(__name__)

_MOST_BY_DEFAULT = 1000

_REQUEST_LINE: Final = re.compile(rb"\S+[ \t]+([^\s?]+)[\s?]")
"""Also where it is malformed: whom it was asked of is what counts."""

_PARSER_ERRORS = {431: "headers_too_large", 501: "not_implemented"}


class ConnectionConfig(uvicorn.Config):
    """uvicorn's configuration for an application on `Connection`s within `limits`.

    Args:
        tls: what TLS is spoken with; None: none is.
        prefix: of paths, where a proxy serves the application; see `ServerSettings.root_path`.

    Raises:
        SettingsError: this process may not open so many files.
    """

    def __init__(
        self,
        app: Any,
        limits: ConnectionLimits,
        tls: ssl.SSLContext | None = None,
        prefix: str = "",
    ) -> None:
        self.limits, self.prefix = limits, prefix
        self.most, at_once = connections_allowed(limits.most)
        self.notices = _Notices()
        self._handshakes = None if tls is None else Handshakes(tls, 2 * at_once, limits.header_seconds)
        super().__init__(
            app,
            http=self._protocol,  # type: ignore[arg-type]  # uvicorn calls it, as it would a class
            loop="asyncio",  # for whose transports Connection is written; not uvloop, where that is installed
            ws="none",
            backlog=at_once,
            # Logging is the caller's, and every request is logged by EveryRequest.
            log_config=None,
            access_log=False,
            timeout_keep_alive=86_400,  # NEXT_REQUEST has a deadline of ours
            proxy_headers=False,  # by default it believes 127.0.0.1, which is anybody on this machine
        )

    def _protocol(self, **of_server: Any) -> asyncio.Protocol:
        """For one more connection."""
        if self._handshakes is None:
            return Connection(**of_server)
        return Handshake(self._handshakes, lambda: Connection(**of_server))


def connections_allowed(wanted: int | None) -> tuple[int, int]:
    """How many connections to keep, and how many to accept before looking at them.

    Some files of the process are left to everything else: models, bodies on disk, and the connections that
    are accepted while others are closed for them. So `accept` never fails for want of a file.

    Raises:
        SettingsError: more are wanted than the process may have.
    """
    if resource is None:
        return wanted or _MOST_BY_DEFAULT, 32
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return wanted or _MOST_BY_DEFAULT, 32
    reserve = min(256, files // 4)
    free = max(1, files - reserve - len(os.listdir("/dev/fd")))
    if (wanted or 0) > free:
        raise SettingsError(
            f"{wanted} connections are too many for a process that may open {files} files: "
            f"allow more with `ulimit -n`, or at most {free} connections"
        )
    # An eighth, as it takes up to four turns of the loop until a connection that was dropped is closed.
    return wanted or min(free, _MOST_BY_DEFAULT), max(1, reserve // 8)


class _Owed(Enum):
    """What a client must do next."""

    NEXT_REQUEST = "its next request"
    HEADERS = "the rest of its request's headers"
    BODY = "the rest of its request's body"
    READING = "reading the reply"
    NOTHING = "nothing; it waits for the answer"


_UNASKED = (_Owed.NEXT_REQUEST, _Owed.HEADERS, _Owed.BODY)


class Connection(H11Protocol):
    """A client's connection."""

    def __init__(
        self,
        config: ConnectionConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn: _Parser = _Parser(self._malformed)
        self._limits, self._most, self._notices = config.limits, config.most, config.notices
        self._prefix = config.prefix
        self._owed, self._of = _Owed.NOTHING, self.cycle
        self._since, self._unasked_since = 0.0, 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._window_bytes = 0

    @property
    def answering(self) -> bool:
        """Whether it waits for an answer to a whole request, or reads it."""
        return self._owed not in _UNASKED and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._update()
        if len(self.connections) > self._most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._window_bytes += len(data)
        super().data_received(data)
        self._update()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._update()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._update()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update()

    def shutdown(self) -> None:
        """End this: at once, unless an answer is being sent."""
        if self._owed in (_Owed.BODY, _Owed.NOTHING):
            self._refuse(503, "shutting_down", "the server is shutting down; ask another one, or later")
        else:
            super().shutdown()
            self._update()

    def _should_upgrade(self) -> bool:
        return False  # nothing here speaks WebSocket; the request may do without

    def _update(self) -> None:
        """Note what is owed now; its deadline begins when that is something new."""
        owed = self._owed_now()
        if (owed, self.cycle) == (self._owed, self._of):
            return
        if owed in _UNASKED and self._owed not in _UNASKED:
            self._unasked_since = self.loop.time()
        self._owed, self._of, self._since, self._window_bytes = owed, self.cycle, self.loop.time(), 0
        limits = self._limits
        seconds = {
            _Owed.NEXT_REQUEST: limits.idle_seconds,
            _Owed.HEADERS: limits.header_seconds,
            _Owed.BODY: min(limits.body_seconds, limits.window_seconds),
            _Owed.READING: limits.reading_seconds,
        }
        self._set_timer(seconds.get(owed))

    def _owed_now(self) -> _Owed:
        closing = self.transport.is_closing()
        if self.flow.write_paused or (closing and self._unread):
            return _Owed.READING
        if closing or self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            return _Owed.NOTHING
        if self.conn.their_state is h11.SEND_BODY:
            return _Owed.BODY
        begun = self.cycle is None or self._owed is _Owed.HEADERS or self.conn.trailing_data[0]
        return _Owed.HEADERS if begun else _Owed.NEXT_REQUEST

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._overdue)

    def _overdue(self) -> None:
        if self._secured and self.transport.is_closing():
            self.transport.abort()
            return
        if self._owed is _Owed.BODY and (left := self._body_seconds_left()) > 0:
            self._window_bytes = 0
            self._set_timer(min(left, self._limits.window_seconds))
            return
        if self._silent:
            self._close()
            return
        self._notices.tell(f"gave a connection up from {self._address} that owed {self._owed.value}")
        if self._owed is _Owed.READING:
            self.transport.abort()
        else:
            self._refuse(408, "request_timeout", f"the server waited too long for {self._owed.value}")

    def _body_seconds_left(self) -> float:
        """0 for one that comes too slowly, unless it is the server that does not read."""
        if self._window_bytes < self._limits.window_bytes and not self.flow.read_paused:
            return 0.0
        return self._since + self._limits.body_seconds - self.loop.time()

    def _make_room(self) -> None:
        """Drop connections that wait for no answer, or this one if there are none.

        A few at a time, as looking for them is the work.
        """
        others = [cast(Connection, one) for one in self.connections if one is not self]
        unasked = [one for one in others if one._owed in _UNASKED]
        if not unasked:
            self._drop()
            return
        crowd, number = Counter(one._address for one in unasked).most_common(1)[0]
        oldest = sorted((one for one in unasked if one._address == crowd), key=lambda one: one._unasked_since)
        for one in oldest[: 1 + number // 32]:
            if one._silent:
                one._close()
            one._drop()

    def _drop(self) -> None:
        self._notices.tell(f"dropped a connection from {self._address}: there were more than {self._most}")
        self.connections.discard(self)
        self._refuse(503, "too_many_connections", "the server has too many connections; try again later")
        if self._unread:
            self.transport.abort()

    @property
    def _secured(self) -> bool:
        return bool(self.scheme == "https")

    @property
    def _unread(self) -> bool:
        """Whether closing it takes the client: it has not read all, or over TLS has not said that it did."""
        return self._secured or self.transport.get_write_buffer_size() > 0

    @property
    def _silent(self) -> bool:
        """Whether nothing came since it was opened, or since the last reply: there is nothing to answer."""
        unused = self._owed is _Owed.NEXT_REQUEST or self.cycle is None
        return unused and self._window_bytes == 0

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else "an unnamed address"

    @property
    def _path(self) -> str:
        """What the request in progress asks of the application; empty where that is not known."""
        if self.cycle is not None and not self.cycle.response_complete:
            path: str = self.cycle.scope["path"]
        else:
            line = _REQUEST_LINE.match(self.conn.head)
            path = "" if line is None else unquote(line[1].decode("latin-1"))
        return path.removeprefix(self._prefix)

    def _malformed(self, error: h11.RemoteProtocolError) -> None:
        if self.transport.is_closing():
            return
        kind = str(error).partition(":")[0]  # what follows may be a part of the body
        self._notices.tell(f"dropped a connection from {self._address} that is not HTTP: {kind}")
        status = error.error_status_hint
        name = _PARSER_ERRORS.get(status, "malformed_request")
        said = re.sub(r"bytearray\(b(.*)\)", r"\1", str(error))
        self._refuse(status, name, f"the request is not well-formed HTTP/1.1: {said}")

    def _refuse(self, status: int, name: str, message: str) -> None:
        """Close the connection, with an error unless a reply has begun."""
        head_only = False
        if self.cycle is not None and not self.cycle.response_complete:
            head_only = self.cycle.scope["method"] == "HEAD"
            self.cycle.disconnected = True  # whoever handles it may stop
            self.cycle.message_event.set()
        if not self.transport.is_closing() and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(error_content(self._path, status, name, message)).encode()
            headers = [
                *self.server_state.default_headers,
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            if status == 503:
                headers.append((b"retry-after", b"2"))
            head = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
            for event in (head, h11.Data(data=b"" if head_only else body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self._close()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
        self._update()


class _Parser(h11.Connection):
    """h11's, which tells what is malformed to `on_error`, and nothing after it.

    uvicorn would log a line for each, and answer in plain text, twice where an answer was under way.

    Attributes:
        head: the latest request's, as far as it came, with what came behind it; h11 keeps nothing of a head
            that is malformed.
    """

    def __init__(self, on_error: Callable[[h11.RemoteProtocolError], None]) -> None:
        super().__init__(h11.SERVER)
        self._on_error = on_error
        self.head = b""

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            self.head = self.trailing_data[0]
        try:
            return super().next_event()
        except h11.RemoteProtocolError as error:
            self._on_error(error)
            return h11.NEED_DATA


class _Notices:
    """Warnings that clients cause: a few in each minute, then how many more there were."""

    def __init__(self, most: int = 10, seconds: float = 60.0) -> None:
        self._most, self._seconds = most, seconds
        self._told = 0

    def tell(self, message: str) -> None:
        """Log it, or count it; only on a loop's thread."""
        if self._told == 0:
            asyncio.get_running_loop().call_later(self._seconds, self.tell_rest)
        self._told += 1
        if self._told <= self._most:
            _log.warning("%s", message)

    def tell_rest(self) -> None:
        """Say how many were counted only."""
        left_out, self._told = self._told - self._most, 0
        if left_out > 0:
            _log.warning("%d more connections were given up or dropped in %g s", left_out, self._seconds)
