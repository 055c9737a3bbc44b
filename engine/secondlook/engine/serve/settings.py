"""What an operator may choose about the server; the model and the policy have settings of their own."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from secondlook.edge.validation import validated

__all__ = ["ServerSettings", "SessionLimits"]

_MEBIBYTE = 1024 * 1024


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
class ServerSettings:
    """The HTTP server's bounds; every one of them protects the server from a client.

    Attributes:
        queue_size: questions that may wait, besides those that the model works on; second looks may be that
            many more, and fill all places.
        max_body_bytes: size of a request's body, counted while it arrives.
        max_new_tokens: the most that a request may ask for.
        max_original_pixels: the largest original picture that a client may declare. The server never sees it.
        decoding_threads: images decoded at one time.
        sessions: see `SessionLimits`.
    """

    queue_size: PositiveInt = 32
    max_body_bytes: PositiveInt = 8 * _MEBIBYTE
    max_new_tokens: PositiveInt = 512
    max_original_pixels: PositiveInt = 1_000_000_000
    decoding_threads: PositiveInt = 4
    sessions: SessionLimits = SessionLimits()
