"""What an operator may choose about the server; the model and the policy have settings of their own.

A value out of its range raises SettingsError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from secondlook.edge.errors import SettingsError
from secondlook.engine.models.prompts import DEFAULT_MAX_CHARACTERS

__all__ = ["ServerSettings", "SessionLimits"]

_MEBIBYTE = 1024 * 1024


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise SettingsError(f"{name} must be at least {least}, not {value}")


@dataclass(frozen=True)
class SessionLimits:
    """How much of the past the server keeps.

    Attributes:
        max_waiting: sessions that wait for their local image; one more, and the oldest is given up.
        seconds: how long a session waits for its local image.
        max_remembered: ended sessions whose end (409, 410) and last reply are still known; older ones are
            unknown (404).
    """

    max_waiting: int = 1024
    seconds: float = 60.0
    max_remembered: int = 10_000

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise SettingsError(f"seconds must be a positive, finite number, not {self.seconds}")
        _check_at_least("max_waiting", self.max_waiting, 1)
        _check_at_least("max_remembered", self.max_remembered, 0)


@dataclass(frozen=True)
class ServerSettings:
    """The HTTP server's bounds; every one of them protects the server from a client.

    Attributes:
        queue_size: questions that may wait, besides those that the model works on; second looks may be that
            many more, and fill all places.
        max_body_bytes: size of a request's body, counted while it arrives.
        max_question_characters: length of a question; the engine's own limits hold too.
        max_new_tokens: the most that a request may ask for.
        max_original_pixels: the largest original picture that a client may declare. The server never sees it.
        decoding_threads: images decoded at one time.
        sessions: see `SessionLimits`.
    """

    queue_size: int = 32
    max_body_bytes: int = 8 * _MEBIBYTE
    max_question_characters: int = DEFAULT_MAX_CHARACTERS
    max_new_tokens: int = 512
    max_original_pixels: int = 1_000_000_000
    decoding_threads: int = 4
    sessions: SessionLimits = SessionLimits()

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "sessions":
                _check_at_least(field.name, getattr(self, field.name), 1)
