"""When to ask again, and how long to wait before it. Numbers only: nothing here sleeps or sends."""

from __future__ import annotations

import re
from dataclasses import field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from .errors import SettingsError
from .imaging import GLOBAL_JPEG, LOCAL_JPEG, JpegSettings
from .limits import PictureLimits
from .validation import validated
from .wire import PROTOCOL_HEADER, SESSION_HEADER

__all__ = ["BUSY_STATUSES", "GATEWAY_STATUSES", "ClientSettings", "backoff_seconds", "retry_after_seconds"]

BUSY_STATUSES = (429, 503)
"""A full queue, and a server that starts or stops: worth asking again."""

GATEWAY_STATUSES = (500, 502, 504)
"""With these a gateway says that it lost its server, or found none: worth asking again. A server of ours says
its own 500 in an `ErrorReply`, and means it."""

HeaderName = Annotated[str, Field(pattern="^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
HeaderValue = Annotated[str, Field(pattern="^[\\t -~]*$")]

_OWN_HEADERS = frozenset(
    (
        "content-type",
        "content-length",
        "transfer-encoding",
        "accept-encoding",
        PROTOCOL_HEADER,
        SESSION_HEADER,
    )
)


@validated(frozen=True)
class ClientSettings:
    """How an edge client prepares pictures and how patient it is; `SettingsError` names what is impossible.

    Attributes:
        timeout: seconds to wait for the server to answer one request (or to take in a part of one).
        connect_timeout: seconds to wait for a connection.
        wait_budget: seconds that one question may wait in all for a server that is away, restarts or is
            busy: failed attempts and the pauses between them. A pause that would exceed it is not begun.
        retries: most repetitions of one request after connection loss, 429, 503 or a gateway's error, within
            that time.
        first_wait: seconds before the first repetition; every further one waits `wait_factor` times longer.
        wait_factor: growth of the wait; at least 1.
        longest_wait: upper bound of one such wait. A Retry-After of the server may be longer.
        api_key: the server's key, sent as a bearer token. Never shown.
        headers: further headers of every request, such as a gateway's. Never shown.
        ca: a file of certificates, in PEM, that are trusted instead of the usual ones.
        global_jpeg, local_jpeg: compression of the first and the second look's picture.
        limits: what a picture may cost.
    """

    timeout: PositiveFloat = 60.0
    connect_timeout: PositiveFloat = 5.0
    wait_budget: NonNegativeFloat = 60.0
    retries: NonNegativeInt | None = None
    first_wait: NonNegativeFloat = 0.25
    wait_factor: Annotated[float, Field(ge=1)] = 2.0
    longest_wait: NonNegativeFloat = 4.0
    global_jpeg: JpegSettings = GLOBAL_JPEG
    local_jpeg: JpegSettings = LOCAL_JPEG
    limits: PictureLimits = field(default_factory=PictureLimits)
    api_key: Annotated[str, Field(pattern="^[!-~]+$")] | None = field(default=None, repr=False)
    headers: dict[HeaderName, HeaderValue] = field(default_factory=dict, repr=False, hash=False)
    ca: str | Path | None = None

    def __post_init__(self) -> None:
        ours = _OWN_HEADERS & {name.lower() for name in self.headers}
        if ours:
            raise SettingsError(f"headers cannot have {', '.join(sorted(ours))}: the client sets it")


def backoff_seconds(settings: ClientSettings, attempt: int, jitter: float) -> float:
    """The wait after the failed attempt number `attempt` (0 is the first).

    Exponential; `jitter`, from 0 to 1, takes away up to half of it, so that many edges do not return at once.
    """
    wait = min(settings.first_wait, settings.longest_wait)
    for _ in range(attempt):  # not a power, which would overflow
        wait = min(wait * settings.wait_factor, settings.longest_wait)
    return wait * (1 - jitter / 2)


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """The seconds that a Retry-After header asks for (RFC 9110, section 10.2.3): a number or an HTTP date.

    Never negative; None where there is no header or it says neither.
    """
    if header is None:
        return None
    header = header.strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", header):
        return float(header)
    try:
        when = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - now).total_seconds())
