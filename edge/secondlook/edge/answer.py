"""What an edge client returns: the answer, and what it took to get it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from .geometry import Region, Size
from .imaging import EncodedPicture
from .wire import Answer, LookSeconds, Relevance

__all__ = ["EdgeAnswer", "StageSeconds"]


@dataclass(frozen=True)
class StageSeconds:
    """Where the time went, as the edge saw it, in seconds; 0 for a stage that did not take place.

    `prepare_global` includes opening the picture; the looks include the network, the server and all waiting.
    `total` also includes asking for the model card, once for each client.
    """

    prepare_global: float = 0.0
    first_look: float = 0.0
    prepare_local: float = 0.0
    second_look: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class EdgeAnswer:
    """The final answer to one question, and its cost.

    The tuples have one entry for each look: one, or two when a second look was begun, even if it then failed.

    Attributes:
        text: the answer to use.
        uncertainty: the doubt of that answer, in nats for the entropies.
        refined: whether it is the second look's answer.
        looked_twice: whether the server answered a second look (arbitration may still have kept the first).
        second_look_failed: why the server's request for a second look could not be met, so that the first
            answer stands; None if there was no such failure.
        asked_again: whether the server had lost the question between the looks, so that all of it was asked
            once more, from the global image. What that cost is counted in each look's numbers.
        decision: the server's reason for the last answer it gave.
        first, second: both looks' answers; `second` is None unless `looked_twice`.
        region: where the server asked to look, in original pixels.
        original: the picture's upright size.
        bytes_up, bytes_down: bytes of request and reply bodies, repetitions included, for each look.
        pixels: pixels sent, for each look; of repetitions only where the whole question was asked again.
        visual_tokens: tokens of pictures that the model answered from, for each look it answered.
        seconds: time for each stage.
        server_seconds: the server's own times, for each look it answered.
        relevance: where the model looked, if that was asked for.
        local_image: the second look's picture as it was sent.
    """

    text: str
    uncertainty: float
    refined: bool
    looked_twice: bool
    second_look_failed: str | None
    decision: str
    first: Answer
    second: Answer | None
    region: Region | None
    original: Size
    bytes_up: tuple[int, ...]
    bytes_down: tuple[int, ...]
    pixels: tuple[int, ...]
    visual_tokens: tuple[int, ...]
    seconds: StageSeconds
    server_seconds: tuple[LookSeconds, ...]
    relevance: Relevance | None = None
    local_image: EncodedPicture | None = field(default=None, repr=False)
    asked_again: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, in types that JSON has."""
        told: dict[str, Any] = TypeAdapter(Any).dump_python(self, mode="json", exclude={"local_image"})
        return told
