"""What travels between a camera and a site: frames, each answered by its deadline.

    POST   /v1/streams               → StreamCard    (JSON: StreamOptions)
    POST   /v1/streams/{id}/frames   → FrameReply    (multipart: frame, image, focus, detail0 to detail3)
    GET    /v1/streams/{id}/events   → StreamEvent   (NDJSON: one a line, until the stream ends)
    DELETE /v1/streams/{id}          → StreamSummary
    any error                        → ErrorReply

Of a frame's parts, `frame` is a `FrameHeader` as JSON text and `image` the whole frame as a JPEG of the
card's global view. `focus` is the part of this frame that the last reply's focus asked for, of the card's
local view; the details are of earlier frames, which the last replies wanted for the cloud, in the header's
order.

A frame is known by its number and the time of its capture, both the camera's own: nothing depends on when, in
what order or how often anything arrives.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from .wire import Box, ModelCard, View, WireModel

__all__ = [
    "MOST_DETAILS",
    "MOST_REFUSED",
    "By",
    "Detail",
    "FocusAt",
    "FrameHeader",
    "FrameReply",
    "HistoryEntry",
    "StreamCard",
    "StreamEvent",
    "StreamOptions",
    "StreamSummary",
    "Wanted",
    "Window",
]

MOST_DETAILS: Final = 4
"""Details of earlier frames that may travel with one frame."""

MOST_REFUSED: Final = 64
"""Details that one frame may refuse."""

By = Literal["own", "cloud"]
"""Whose answer: the site's small model's, or the cloud's."""

_FINITE = Field(allow_inf_nan=False)


class StreamOptions(WireModel):
    """What is asked of every frame. What is None takes the site's default; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    question: str = Field(min_length=1)
    deadline: float | None = Field(
        default=None, gt=0, le=60, allow_inf_nan=False, description="Seconds from a frame to its answer."
    )


class StreamCard(WireModel):
    """A stream that was opened, and how its frames are prepared."""

    id: str
    model: ModelCard = Field(description="Of the site's own model.")
    deadline: float = Field(gt=0, description="Seconds from a frame's arrival to its answer.")
    idle_seconds: float = Field(gt=0, description="Without a frame for so long, the stream ends.")
    history_seconds: float = Field(gt=0, description="Older answers are of no use, nor are older frames.")


class Window(WireModel):
    """What a frame shows of the world, in any units that all frames of the stream share: known motion.

    Only the ratios between two frames' windows are used.
    """

    left: Annotated[float, _FINITE]
    top: Annotated[float, _FINITE]
    right: Annotated[float, _FINITE]
    bottom: Annotated[float, _FINITE]

    @model_validator(mode="after")
    def _check_order(self) -> Window:
        if not (self.left < self.right and self.top < self.bottom):
            raise ValueError("a window's left is less than its right, and its top less than its bottom")
        return self


class Detail(WireModel):
    """A picture of an earlier frame: of its region, or of all of it where there is none."""

    frame: int = Field(ge=0)
    region: Box | None = None


class Wanted(Detail):
    """A detail that the cloud asks for, and how it is prepared."""

    view: View


class FrameHeader(WireModel):
    """What a frame is, beside its pictures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frame: int = Field(ge=0, description="Its number; later frames have larger ones.")
    captured: Annotated[float, _FINITE] = Field(description="Seconds on the camera's clock.")
    width: int = Field(gt=0, description="Of the original, in pixels.")
    height: int = Field(gt=0)
    window: Window | None = Field(default=None, description="Where the camera knows its own motion.")
    focus: Box | None = Field(default=None, description="What the part `focus` shows of this frame.")
    details: tuple[Detail, ...] = Field(default=(), max_length=MOST_DETAILS)
    refused: tuple[Detail, ...] = Field(
        default=(), max_length=MOST_REFUSED, description="Wanted details that will not come."
    )


class FocusAt(WireModel):
    """Where the site would look closer, as it lies in one frame; by the next the camera may have moved on."""

    frame: int
    region: Box


class HistoryEntry(WireModel):
    """The earlier answer that an answer rests on."""

    frame: int
    by: By
    text: str
    uncertainty: float
    age: float = Field(description="Seconds between the captures of its frame and of the frame answered.")


class FrameReply(WireModel):
    """What holds for a frame at its deadline.

    `answered`: the frame was looked at. `held`: its look is not done by the deadline, or failed (`reason`),
    and what held before goes on. `superseded`: a newer frame came before its turn.

    `source` says what the answer rests on: the frame's `picture`; the picture read with the `history` behind
    the question (`context`); the `history` entry alone; or `nothing`, as long as there is no answer.
    """

    frame: int
    status: Literal["answered", "held", "superseded"]
    answer: str = ""
    source: Literal["picture", "context", "history", "nothing"]
    uncertainty: float | None = Field(
        default=None, description="Of the small model, from the picture alone; None: not looked at."
    )
    context_uncertainty: float | None = Field(
        default=None, description="Of the small model with history behind the question; None: not asked so."
    )
    history: HistoryEntry | None = None
    age: float | None = Field(
        default=None, description="Seconds since the capture of what the answer rests on."
    )
    chance: float | None = Field(default=None, description="That the answer is right.")
    focus: FocusAt | None = None
    wanted: tuple[Wanted, ...] = ()
    deadline_missed: bool = False
    reason: str = ""
    seconds: float = Field(default=0.0, description="At the site, from the frame's arrival to this reply.")


class StreamEvent(WireModel):
    """Something that happened beside the frames' own answers.

    `asked`: a key frame went to the cloud. `cloud`: its answer came; `counts` says whether it tells anything,
    and enters the history. `lost`: it will not come (`reason`). `dropped`: a line of history could not be put
    behind the question. `answered`: a frame's reply, for whoever watches. `ended`: the stream.
    """

    kind: Literal["asked", "cloud", "lost", "dropped", "answered", "ended"]
    frame: int
    text: str = ""
    uncertainty: float | None = None
    region: Box | None = None
    counts: bool = False
    reason: str = ""
    seconds: float | None = Field(default=None, description="That the cloud took for it.")
    bytes_up: int = Field(default=0, description="Sent to the cloud for it.")
    reply: FrameReply | None = None


class StreamSummary(WireModel):
    """What a stream came to."""

    frames: int
    answered: int
    held: int
    superseded: int
    deadline_misses: int
    cloud_calls: int
    cloud_answers: int = Field(description="Those that came.")
    cloud_counted: int = Field(description="Those that entered the history.")
    cloud_lost: int
    bytes_from_camera: int
    bytes_to_cloud: int
