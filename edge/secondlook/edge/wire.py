"""What travels between edge and server, as types: the one description both sides import.

    GET    /v1/model                → ModelCard
    POST   /v1/answers              → AnswerReply   (multipart: image, question, width, height, options)
    POST   /v1/answers/{id}/local   → AnswerReply   (multipart: image)
    DELETE /v1/answers/{id}         → AnswerReply   (what stands, the first answer complete)
    any error                       → ErrorReply, with the status that says what kind

`image` is a JPEG part (`image/jpeg`), `width` and `height` are the original picture's size in pixels, and
`options` is an `AnswerOptions` as JSON text (absent: the server's defaults).

How large a picture is sent follows from the card's views and the size of what it shows
(`secondlook.edge.geometry.sent_size`); the server works out the same size from `width` and `height` or from
its region, never from the picture that came.

Both sides say which version they speak (`PROTOCOL`): the server in its card, a client in the header
`secondlook-protocol` of every request; one without it is of version 1, and refused. Versions of one major
number understand each other: what a newer server adds to a reply is passed over by an older client.

Both looks at one question, and the DELETE, carry the same random `x-session-id`, another for each question:
what stands before several servers sends them to the same one by it. No server reads it.
"""

from __future__ import annotations

import base64
import json
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from .errors import ProtocolError, UnexpectedReplyError

__all__ = [
    "PROTOCOL",
    "PROTOCOL_HEADER",
    "SESSION_HEADER",
    "Aggregation",
    "Answer",
    "AnswerOptions",
    "AnswerReply",
    "Box",
    "Budget",
    "ErrorReply",
    "Filter",
    "Fit",
    "Fixed",
    "Limits",
    "LookSeconds",
    "Measure",
    "ModelCard",
    "PendingSession",
    "Relevance",
    "Tiles",
    "View",
    "check_protocol",
]

PROTOCOL: Final = "2.3"
"""The version of all that is described here, major.minor."""

PROTOCOL_HEADER: Final = "secondlook-protocol"
"""The header of a request that says which version its client speaks."""

SESSION_HEADER: Final = "x-session-id"
"""The header that all requests of one question have alike, for balancers; the name is Ray Serve's default."""

Fit = Literal["squash", "pad"]
"""How a picture is fitted to the size that a model takes: stretched to it, or padded, its shape kept."""

Filter = Literal["lanczos", "bicubic", "bilinear", "box"]
"""How pixels are resampled: Pillow's filters of these names, antialiased."""

Measure = Literal["min_entropy", "shannon_entropy", "margin"]
"""Per-token uncertainty: -ln max p, -Σ p ln p, or 1 - (p₁ - p₂). All grow with doubt."""

Aggregation = Literal["all", "first", "first_k"]
"""Which output tokens the mean is taken over."""


def check_protocol(spoken: object, who: str) -> None:
    """Refuse another major version than ours, in one line that says what to do.

    Args:
        spoken: what the other side says it speaks.
        who: the other side, such as "the server".

    Raises:
        ProtocolError: it is another major version, or none.
    """
    major = PROTOCOL.partition(".")[0]
    if not isinstance(spoken, str) or spoken.partition(".")[0] != major:
        said = f"protocol {spoken}" if isinstance(spoken, str) else "an older protocol"
        raise ProtocolError(
            f"{who} speaks {said}, and this side {PROTOCOL}: install the same version of secondlook on both"
        )


MessageT = TypeVar("MessageT", bound="WireModel")


class WireModel(BaseModel):
    """Base of all messages: immutable; what a newer version adds is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @classmethod
    def read(cls: type[MessageT], content: bytes) -> MessageT:
        """A message from JSON, as it came.

        Raises:
            ValidationError: it is not this message.
        """
        return cls.model_validate_json(content)


class Fixed(WireModel):
    """One size for all pictures, in pixels."""

    kind: Literal["fixed"] = "fixed"
    width: int = Field(gt=0)
    height: int = Field(gt=0)


class Budget(WireModel):
    """A size for each picture: its shape nearly kept, in multiples of a cell, within bounds of pixels.

    Of a slender picture both sides have at least one cell, so that it may exceed `most_pixels`, as that of
    transformers' `smart_resize` does.
    """

    kind: Literal["budget"] = "budget"
    multiple: int = Field(gt=0, description="Of which both sides are multiples, in pixels.")
    least_pixels: int = Field(gt=0)
    most_pixels: int = Field(gt=0)

    @model_validator(mode="after")
    def _check_pixels(self) -> Budget:
        if not max(self.least_pixels, self.multiple**2) <= self.most_pixels:
            raise ValueError(
                f"a budget of {self.least_pixels} to {self.most_pixels} pixels holds no picture whose sides "
                f"are multiples of {self.multiple}"
            )
        return self


class Tiles(WireModel):
    """As large as fits a sheet of tiles, its shape kept: one of several sheets for each picture.

    A model that sees so pads the picture to its sheet itself, and sees it once more in a single tile.
    """

    kind: Literal["tiles"] = "tiles"
    sheets: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(
        min_length=1, description="(width, height) of each."
    )


class View(WireModel):
    """What a model sees of a picture: how large, and how the picture is brought to that size."""

    size: Annotated[Fixed | Budget | Tiles, Field(discriminator="kind")]
    fit: Fit = "squash"
    pad_colour: tuple[int, int, int] = Field(
        default=(122, 116, 104), description="RGB around a padded picture."
    )
    filter: Filter = "lanczos"


class Limits(WireModel):
    """What the server takes at most."""

    max_body_bytes: int
    max_question_characters: int
    max_new_tokens: int
    max_original_pixels: int


class ModelCard(WireModel):
    """What an edge must know of the server's model."""

    protocol: str = PROTOCOL
    version: str = Field(default="", description="Of the server's software.")
    name: str
    global_view: View = Field(description="Of the whole picture, for the first look.")
    local_view: View = Field(description="Of a region, for the second look.")
    crop_size: int = Field(gt=0, description="Side of the smallest region asked for, in original pixels.")
    threshold: float = Field(ge=0, description="Default uncertainty threshold η, in nats for the entropies.")
    gated: bool = Field(default=False, description="The threshold is a gate's.")
    limits: Limits | None = Field(default=None, description="None: nothing but the engine's own.")
    precision: str = Field(default="", description="Of weights and activations.")

    @classmethod
    def read(cls, content: bytes) -> ModelCard:
        """
        Raises:
            ValidationError: it is no card.
            ProtocolError: it is one of another major version.
        """
        try:
            values = json.loads(content)
        except ValueError:
            values = None  # said by the validation
        if isinstance(values, dict) and {"protocol", "image_size"} & values.keys():  # 1.0 had no version
            check_protocol(values.get("protocol"), "the server")
        return super().read(content)


class Box(WireModel):
    """A region in original pixels; left and top are inside it, right and bottom just outside."""

    left: int = Field(ge=0)
    top: int = Field(ge=0)
    right: int
    bottom: int


class AnswerOptions(WireModel):
    """Per-request choices. What is None takes the server's default; unknown keys and other types are refused.

    A threshold is of the uncertainty: where it decides, another measure needs its own. `relevance` asks for
    the map that a region is sought in, even if none is. `region` is where to look closer, if a caller knows.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    threshold: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    measure: Measure | None = None
    aggregation: Aggregation | None = None
    first_k: int | None = Field(default=None, ge=1)
    include_eos: bool | None = None
    arbitration: bool | None = None
    decide_after: int | None = Field(default=None, ge=1)
    second_look: Literal["auto", "always", "never"] = "auto"
    max_new_tokens: int | None = Field(default=None, ge=1)
    relevance: bool = False
    region: Box | None = None


class Answer(WireModel):
    """One look's answer and its doubt."""

    text: str
    uncertainty: float = Field(allow_inf_nan=False)
    tokens: int = Field(ge=0, description="Output tokens, the end token included.")
    visual_tokens: int = Field(ge=0, description="Tokens of the pictures that it was answered from.")
    complete: bool = Field(default=True, description="False: it is still being written.")


class LookSeconds(WireModel):
    """Where the server's time went, in seconds: all of it, from the request's body on.

    The stages include what was computed for others in the same passes.
    """

    queue: float = Field(default=0.0, description="Waiting for the model, or for another look.")
    decode_image: float = Field(default=0.0, description="The JPEG and the question, made ready for it.")
    encode: float = Field(default=0.0, description="The picture, and what of it depends on the question.")
    prefill: float = Field(default=0.0, description="Prompts, their attention maps, and the region.")
    decode: float = Field(default=0.0, description="The answer's tokens.")


class PendingSession(WireModel):
    """A first answer that waits for its region."""

    id: str
    expires_in: float = Field(gt=0, description="Seconds until the first answer stands as final.")


class Relevance(WireModel):
    """Relative attention over the whole original: the question's, divided by that of a generic question.

    Cell (row, column) of `height` rows and `width` columns is byte row * width + column of `data`, in base64,
    scaled so that the largest is 255. In fit pad the cells cover the padding too.
    """

    width: int = Field(gt=0, le=65536)
    height: int = Field(gt=0, le=65536)
    data: str

    def rows(self) -> list[list[int]]:
        """`height` rows of `width` numbers from 0 to 255.

        Raises:
            UnexpectedReplyError: the data is not as many bytes.
        """
        try:
            cells = base64.b64decode(self.data, validate=True)
        except ValueError as error:
            raise UnexpectedReplyError(f"the relevance map is not base64: {error}") from error
        if len(cells) != self.width * self.height:
            raise UnexpectedReplyError(
                f"the relevance map has {len(cells)} bytes, not {self.width} times {self.height}"
            )
        return [list(cells[row * self.width : (row + 1) * self.width]) for row in range(self.height)]


class AnswerReply(WireModel):
    """The final answer, or the first answer with the region the server wants to see.

    `status` is "final" (then `region` and `session` are None unless a second look took place: `region` then
    says where) or "region" (then both are set and `answer` equals `first`, which may not be complete yet).
    `decision` says why, `region_source` who chose it: "attention", "pointing", "request", "not_found".
    """

    status: Literal["final", "region"]
    decision: Literal["sure", "no_detail_to_gain", "disabled", "unsure", "kept_first", "took_second"]
    answer: Answer
    first: Answer
    second: Answer | None = None
    region: Box | None = None
    region_source: str | None = None
    session: PendingSession | None = None
    relevance: Relevance | None = None
    seconds: LookSeconds = LookSeconds()


class ErrorReply(WireModel):
    """The body of every error."""

    error: str = Field(description="A short stable name, e.g. `picture_too_large`.")
    message: str = Field(description="One line: what was wrong, with the value, and what to do.")
