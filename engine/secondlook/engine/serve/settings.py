"""What an operator may choose about the server; the model and the policy have settings of their own."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, NonNegativeInt, PositiveFloat, PositiveInt

from secondlook.edge.errors import SettingsError
from secondlook.edge.geometry import Size
from secondlook.edge.validation import validated
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.errors import PictureMismatchError

__all__ = [
    "ChatLimits",
    "ConnectionLimits",
    "GatewaySettings",
    "KeyLimits",
    "PictureStoreLimits",
    "ServerSettings",
    "SessionLimits",
    "TlsFiles",
]

_MEBIBYTE = 1024 * 1024


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise SettingsError(
            f"--forwarded-allow-ips (forwarded_allow_ips) has {text!r}, which is neither an address, such as "
            "10.0.0.1, nor a network, such as 10.0.0.0/8"
        ) from error


_Network = Annotated[str, AfterValidator(_network)]
"""One address, or several (10.0.0.0/8)."""


def _origin(text: str) -> str:
    if text != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s@,]+", text):
        raise SettingsError(
            f"--cors-origin (cors_origins) has {text!r}; an origin is a scheme, a host and perhaps a port: "
            "https://page.example:8443, or * for every page"
        )
    return text


_Origin = Annotated[str, AfterValidator(_origin)]
"""Of pages, as browsers tell it."""


@validated(frozen=True)
class KeyLimits:
    """How much may be asked with a key; None: as much as anybody.

    Attributes:
        concurrent: questions in progress.
        looks_per_minute: requests with a picture, or with a question for a stream; two of a chat that looks
            twice.
        bytes_per_minute: of their bodies, and of what is fetched for them.
    """

    concurrent: PositiveInt | None = None
    looks_per_minute: PositiveInt | None = None
    bytes_per_minute: PositiveInt | None = None


@validated(frozen=True)
class TlsFiles:
    """Files in PEM.

    Attributes:
        certificate: the server's, and behind it those that lead to its authority's.
        key: its private key, without a password.
    """

    certificate: Path
    key: Path


@validated(frozen=True)
class SessionLimits:
    """How much of the past the server keeps.

    Attributes:
        max_waiting: sessions that wait for their local image; one more, and the oldest is given up.
        max_bytes: what all of them may keep in memory: pictures, prompts and maps. With more, the oldest are
            given up; the latest waits in any case.
        seconds: how long a session waits for its local image.
        max_remembered: ended sessions whose end (409, 410) and last reply are still known; older ones are
            unknown (404).
    """

    max_waiting: PositiveInt = 1024
    max_bytes: PositiveInt = 1024 * _MEBIBYTE
    seconds: PositiveFloat = 60.0
    max_remembered: NonNegativeInt = 10_000


@validated(frozen=True)
class ConnectionLimits:
    """How many connections are kept, and how long one may owe what comes next.

    Attributes:
        most: connections; for one more, one that waits for no answer is dropped. By default 1000, or as many
            as the process may open.
        header_seconds: from connecting, or from a further request's first byte, until its headers are whole.
        body_seconds: until the body is whole.
        window_seconds, window_bytes: a body that brings less in such a time is given up before.
        idle_seconds: until a further request begins; more than clients keep idle connections (httpx: 5 s),
            or they ask on one that is being closed.
        reading_seconds: how long a reply, or 64 KiB of it, may take to be read.
    """

    most: PositiveInt | None = None
    header_seconds: PositiveFloat = 10.0
    body_seconds: PositiveFloat = 30.0
    window_seconds: PositiveFloat = 10.0
    window_bytes: NonNegativeInt = 1024
    idle_seconds: PositiveFloat = 20.0
    reading_seconds: PositiveFloat = 30.0


@validated(frozen=True)
class PictureStoreLimits:
    """How many of the pictures of chats are kept for later questions.

    Attributes:
        most: pictures.
        max_bytes: of all of them, encoded as they came.
        seconds: since one was last asked about.
    """

    most: PositiveInt = 1024
    max_bytes: PositiveInt = 256 * _MEBIBYTE
    seconds: PositiveFloat = 600.0


_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s/@?#\[\]:]+)(:[0-9]+)?")
"""As in a URL: an address of IPv6 in brackets, and perhaps a port."""


def _host(told: str, *, port: bool) -> AfterValidator:
    """For a host's name, which is kept in small letters and without the root's dot.

    Args:
        told: the option and the setting.
        port: whether a port may be behind it.
    """

    def checked(text: str) -> str:
        named = _HOST.fullmatch(text)
        try:
            possible = named and (port or not named[2]) and urlsplit(f"//{text}").port != 0
        except ValueError:
            possible = False
        if not possible:
            ported = ", and none with a port, such as pictures.example:8443" if port else ""
            raise SettingsError(
                f"{told} has {text!r}, which is no host's name, such as pictures.example{ported}"
            )
        return text.lower().removesuffix(".")

    return AfterValidator(checked)


_MediaHost = Annotated[str, _host("--allowed-media-domains (allowed_media_domains)", port=True)]
_AllowedHost = Annotated[str, _host("--allowed-host (allowed_hosts)", port=False)]


@validated(frozen=True)
class ChatLimits:
    """What OpenAI's interface takes beside what edges send.

    Attributes:
        max_body_bytes: size of a request's body: whole pictures, in base64.
        max_pixels: of a picture that is decoded here.
        allowed_media_domains: hosts whose pictures are fetched, see `Fetcher`; by default none is.
        fetch_seconds: how long that may take.
        pictures: see `PictureStoreLimits`.
    """

    max_body_bytes: PositiveInt = 20 * _MEBIBYTE
    max_pixels: PositiveInt = 64_000_000
    allowed_media_domains: tuple[_MediaHost, ...] = ()
    fetch_seconds: PositiveFloat = 5.0
    pictures: PictureStoreLimits = PictureStoreLimits()


@validated(frozen=True)
class GatewaySettings:
    """A gateway's bounds towards those that ask it.

    Attributes:
        connections: see `ConnectionLimits`.
        grace_seconds: how long a gateway that was told to stop waits for answers.
        api_key_file: who may ask, see `secondlook.engine.serve.keys`; None: anybody.
        allowed_hosts: names by which it is reached, see `secondlook.engine.serve.foreign`; "*": any.
    """

    connections: ConnectionLimits = ConnectionLimits()
    grace_seconds: PositiveFloat = 30.0
    api_key_file: Path | None = None
    allowed_hosts: tuple[_AllowedHost, ...] = ()


@validated(frozen=True)
class ServerSettings:
    """The HTTP server's bounds, which protect it from its clients, and where it is mounted.

    Attributes:
        queue_size: first looks that may wait, besides those that the model works on, and as many second
            looks. Of one client, fewer: see `secondlook.engine.serve.places`.
        max_body_bytes: size of a request's body, counted while it arrives; less where the model's pictures
            are small.
        max_bodies_bytes: size of all bodies that are arriving, or waiting for their answer, but room for two
            of the largest; of one client's at most half.
        max_new_tokens: the most that a request may ask for.
        max_original_pixels: the largest original picture that a client may declare. The server never sees it.
        decoding_threads: images decoded at one time.
        forwarded_allow_ips: proxies, by address or network, that are believed when they say whom they ask for
            (X-Forwarded-For).
        sessions: see `SessionLimits`.
        connections: see `ConnectionLimits`.
        chat: see `ChatLimits`.
        grace_seconds: how long a server that was told to stop waits for answers and second looks.
        otlp_endpoint: a collector's URL (OTLP over HTTP, without `/v1/traces`), which is told of looks as
            spans; None: nobody.
        root_path: the path under which a proxy serves this, such as "/eyes"; for the links in `/docs`.
        api_key_file: who may ask, see `secondlook.engine.serve.keys`; None: anybody.
        key_limits: of keys whose line has none.
        cors_origins: whose pages may ask from a browser; "*": everybody's.
        tls: what to speak TLS with; None: none is spoken.
    """

    queue_size: PositiveInt = 32
    max_body_bytes: PositiveInt = 8 * _MEBIBYTE
    max_bodies_bytes: PositiveInt = 64 * _MEBIBYTE
    max_new_tokens: PositiveInt = 512
    max_original_pixels: PositiveInt = 1_000_000_000
    decoding_threads: PositiveInt = 4
    forwarded_allow_ips: tuple[_Network, ...] = ()
    sessions: SessionLimits = SessionLimits()
    connections: ConnectionLimits = ConnectionLimits()
    chat: ChatLimits = ChatLimits()
    grace_seconds: PositiveFloat = 30.0
    otlp_endpoint: str | None = None
    root_path: str = ""
    api_key_file: Path | None = None
    key_limits: KeyLimits = KeyLimits()
    cors_origins: tuple[_Origin, ...] = ()
    tls: TlsFiles | None = None

    def __post_init__(self) -> None:
        if self.otlp_endpoint is not None and not re.fullmatch(r"https?://[^\s/]\S*", self.otlp_endpoint):
            raise SettingsError(
                f"otlp_endpoint should be a collector's URL, such as http://localhost:4318, not "
                f"{self.otlp_endpoint!r}"
            )
        if not re.fullmatch(r"(/[^/?#\s]+)*", self.root_path):
            raise SettingsError(
                f"root_path should begin with a slash and not end with one, as /eyes, not {self.root_path!r}"
            )

    def check_allowed(self, options: AnswerOptions, original: Size) -> None:
        """
        Raises:
            SettingsError: options that the server does not allow.
            PictureMismatchError: an original larger than it allows.
        """
        if (options.max_new_tokens or 0) > self.max_new_tokens:
            raise SettingsError(
                f"max_new_tokens is {options.max_new_tokens}; the limit is {self.max_new_tokens}"
            )
        if original.pixels > self.max_original_pixels:
            raise PictureMismatchError(
                f"the original is said to have {original} = {original.pixels} pixels; the limit is "
                f"{self.max_original_pixels}"
            )
