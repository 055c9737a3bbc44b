"""What travels between edge and server, as types: the one description both sides import.

    GET    /v1/model                → ModelCard
    POST   /v1/answers              → AnswerReply   (multipart: image, question, width, height, options)
    POST   /v1/answers/{id}/local   → AnswerReply   (multipart: image)
    DELETE /v1/answers/{id}         → AnswerReply   (what stands, the first answer complete)
    any error                       → ErrorReply, with the status that says what kind

`image` is a JPEG part (`image/jpeg`), `width` and `height` are the original picture's size in pixels, and
`options` is an `AnswerOptions` as JSON text (absent: the server's defaults).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Aggregation",
    "Answer",
    "AnswerOptions",
    "AnswerReply",
    "Box",
    "ErrorReply",
    "LookSeconds",
    "Measure",
    "ModelCard",
    "PendingSession",
    "ResizeMode",
]

ResizeMode = Literal["squash", "pad"]
"""How a picture is fitted to the encoder's square: stretched to it, or padded to a square first."""

Measure = Literal["min_entropy", "shannon_entropy", "margin"]
"""Per-token uncertainty: -ln max p, -Σ p ln p, or 1 - (p₁ - p₂). All grow with doubt."""

Aggregation = Literal["all", "first", "first_k"]
"""Which output tokens the mean is taken over."""


class WireModel(BaseModel):
    """Base of every message: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelCard(WireModel):
    """What an edge must know about the server's model to prepare pictures for it."""

    name: str
    image_size: int = Field(gt=0, description="Side of the vision encoder's square input, in pixels.")
    resize_mode: ResizeMode
    threshold: float = Field(ge=0, description="Default uncertainty threshold η, in nats for the entropies.")


class AnswerOptions(WireModel):
    """Per-request choices. What is None takes the server's default.

    A threshold belongs to its measure: where it decides, another measure than the server's needs its own.
    """

    threshold: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    measure: Measure | None = None
    aggregation: Aggregation | None = None
    first_k: int | None = Field(default=None, ge=1)
    include_eos: bool | None = None
    arbitration: bool | None = None
    decide_after: int | None = Field(default=None, ge=1)
    second_look: Literal["auto", "always", "never"] = "auto"
    max_new_tokens: int | None = Field(default=None, ge=1)


class Box(WireModel):
    """A region in original pixels; left and top are inside it, right and bottom just outside."""

    left: int = Field(ge=0)
    top: int = Field(ge=0)
    right: int
    bottom: int


class Answer(WireModel):
    """One look's answer and its doubt."""

    text: str
    uncertainty: float
    tokens: int = Field(ge=0, description="Output tokens, the end token included.")
    complete: bool = Field(
        default=True, description="Whether this is all of it, or it is still being written."
    )


class LookSeconds(WireModel):
    """Where the server's time went, in seconds."""

    queue: float = 0.0
    decode_image: float = 0.0
    encode: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0


class PendingSession(WireModel):
    """A first answer that waits for its region."""

    id: str
    expires_in: float = Field(gt=0, description="Seconds until the first answer stands as final.")


class AnswerReply(WireModel):
    """The final answer, or the first answer with the region the server wants to see.

    `status` is "final" (then `region` and `session` are None unless a second look took place: `region` then
    says where) or "region" (then both are set and `answer` equals `first`, which may not be complete yet).
    `decision` says why.
    """

    status: Literal["final", "region"]
    decision: Literal["sure", "no_detail_to_gain", "disabled", "unsure", "kept_first", "took_second"]
    answer: Answer
    first: Answer
    second: Answer | None = None
    region: Box | None = None
    session: PendingSession | None = None
    seconds: LookSeconds = LookSeconds()


class ErrorReply(WireModel):
    """The body of every error."""

    error: str = Field(description="A short stable name, e.g. `picture_too_large`.")
    message: str = Field(description="One line: what was wrong, with the value, and what to do.")
