"""What an operator may choose about the server; the model and the policy have settings of their own."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, NonNegativeInt, PositiveFloat, PositiveInt

from secondlook.edge.errors import SettingsError
from secondlook.edge.validation import validated

__all__ = ["ConnectionLimits", "ServerSettings", "SessionLimits"]

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
class ServerSettings:
    """The HTTP server's bounds, which protect it from its clients, and where it is mounted.

    Attributes:
        queue_size: questions that may wait, besides those that the model works on; second looks may be that
            many more, and fill all places. Of one client, fewer: see `secondlook.engine.serve.places`.
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
        grace_seconds: how long a server that was told to stop waits for answers and second looks.
        otlp_endpoint: a collector's URL (OTLP over HTTP, without `/v1/traces`), which is told of looks as
            spans; None: nobody.
        root_path: the path under which a proxy serves this, such as "/eyes"; for the links in `/docs`.
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
    grace_seconds: PositiveFloat = 30.0
    otlp_endpoint: str | None = None
    root_path: str = ""

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
