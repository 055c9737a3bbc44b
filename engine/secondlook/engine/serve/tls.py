"""TLS: certificates that are checked before anything is served, and handshakes that do not last for ever.

uvicorn knows a connection once its handshake is over. Until then nothing would bound how many there are.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from secondlook.edge.errors import SettingsError
from secondlook.engine.serve.settings import TlsFiles

__all__ = ["Handshake", "Handshakes", "server_context"]

_NO_PASSWORD: Final = "-"
"""Tried where a key has one, or OpenSSL would ask for it on the terminal."""


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """What a server of these files speaks TLS with.

    Raises:
        SettingsError: they cannot be read, or are not of each other.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    _check_readable("--tls-cert", files.certificate)  # OpenSSL would not say which of them it means
    _check_readable("--tls-key", files.key)
    try:
        context.load_cert_chain(files.certificate, files.key, _NO_PASSWORD)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError(
                f"--tls-key {files.key} is not the key of --tls-cert {files.certificate}; where that has "
                "several certificates, the server's comes first"
            ) from error
        raise SettingsError(
            f"--tls-cert {files.certificate} and --tls-key {files.key} are not a certificate and its key, "
            f"both in PEM, and the key without a password ({error.reason or error})"
        ) from error
    return context


def _check_readable(option: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{option} {path} cannot be read: {error.strerror or error}") from error


class Handshakes:
    """Those in progress, of one server.

    Args:
        context: of the server.
        most: for one more, the oldest goes of the address that has most of them.
        seconds: that one may take.
    """

    def __init__(self, context: ssl.SSLContext, most: int, seconds: float) -> None:
        self.context = context
        self.seconds = seconds
        self._most = most
        self._going = dict[Handshake, str]()

    def begin(self, handshake: Handshake, address: str) -> None:
        """One more."""
        self._going[handshake] = address
        if len(self._going) > self._most:
            crowd = Counter(self._going.values()).most_common(1)[0][0]
            next(one for one, its in self._going.items() if its == crowd).abort()

    def end(self, handshake: Handshake) -> None:
        """It is over, one way or the other."""
        self._going.pop(handshake, None)


class Handshake(asyncio.Protocol):
    """A connection that is becoming one of TLS, and then goes over to another protocol.

    Args:
        handshakes: those of the server.
        protocol: makes the one that it goes over to.
    """

    def __init__(self, handshakes: Handshakes, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._handshakes = handshakes
        self._protocol = protocol
        self._shaking: asyncio.Task[None] | None = None
        self._early = bytearray()
        self._secured: asyncio.Protocol | None = None
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "a stream's"
        peer = transport.get_extra_info("peername")
        self._transport = transport
        self._shaking = asyncio.get_running_loop().create_task(self._shake(transport))
        self._handshakes.begin(self, str(peer[0]) if peer else "")

    def data_received(self, data: bytes) -> None:
        """Of the first request, before this has gone over."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        """Before this has gone over there will be nothing to go over to. It may also be told so just after,
        for asyncio tells it a turn of the loop later: then in place of the other."""
        self._lost = True
        if self._secured is not None:
            self._secured.connection_lost(exc)

    def abort(self) -> None:
        """Give it up."""
        self._handshakes.end(self)  # here, as a task that has not begun has no `finally`
        self._transport.abort()
        if self._shaking is not None:
            self._shaking.cancel()

    async def _shake(self, transport: asyncio.Transport) -> None:
        limits = self._handshakes
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport, self, limits.context, server_side=True, ssl_handshake_timeout=limits.seconds
            )
        except (
            OSError,
            EOFError,
        ):  # a client's fault, or one that is gone: no TLS, no common version, no time
            transport.abort()
            return
        finally:
            limits.end(self)
        if secured is None or self._lost:  # it was closed meanwhile, and nobody would be told so again
            return
        self._secured = protocol = self._protocol()
        secured.set_protocol(protocol)
        protocol.connection_made(secured)
        if self._early:
            protocol.data_received(bytes(self._early))
