"""When to ask again, and how long to wait before it. Numbers only: nothing here sleeps or sends."""

from __future__ import annotations

import re
from dataclasses import field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from .imaging import GLOBAL_JPEG, LOCAL_JPEG, JpegSettings
from .limits import PictureLimits
from .validation import validated

__all__ = ["BUSY_STATUSES", "ClientSettings", "backoff_seconds", "retry_after_seconds"]

BUSY_STATUSES = (429, 503)
"""A full queue, and a server that starts or stops: worth asking again."""


@validated(frozen=True)
class ClientSettings:
    """How an edge client prepares pictures and how patient it is; `SettingsError` names what is impossible.

    Attributes:
        timeout: seconds to wait for the server to answer one request (or to take in a part of one).
        connect_timeout: seconds to wait for a connection.
        retries: how often a request is repeated after connection loss, 429 or 503.
        first_wait: seconds before the first repetition; every further one waits `wait_factor` times longer.
        wait_factor: growth of the wait; at least 1.
        longest_wait: upper bound of one such wait. A Retry-After of the server may be longer.
        wait_budget: seconds of waiting in all for one request. A wait that would exceed it is not begun.
        global_jpeg, local_jpeg: compression of the first and the second look's picture.
        limits: what a picture may cost.
    """

    timeout: PositiveFloat = 60.0
    connect_timeout: PositiveFloat = 5.0
    retries: NonNegativeInt = 4
    first_wait: NonNegativeFloat = 0.25
    wait_factor: Annotated[float, Field(ge=1)] = 2.0
    longest_wait: NonNegativeFloat = 8.0
    wait_budget: NonNegativeFloat = 60.0
    global_jpeg: JpegSettings = GLOBAL_JPEG
    local_jpeg: JpegSettings = LOCAL_JPEG
    limits: PictureLimits = field(default_factory=PictureLimits)


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
