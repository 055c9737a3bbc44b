"""What an operator says of an upstream: where it is, how it sees, and how patient to be with it."""

from __future__ import annotations

import math
import re
from dataclasses import field
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field, PositiveInt

from secondlook.edge.errors import SettingsError
from secondlook.edge.retry import ClientSettings
from secondlook.edge.validation import validated
from secondlook.edge.wire import Budget, Fixed, Tiles, View
from secondlook.engine.models.prompts import DEFAULT_MAX_CHARACTERS

__all__ = ["BoxUnits", "UpstreamSettings", "parsed_view", "side_of"]

BoxUnits: TypeAlias = Literal["pixels", "thousandths", "fractions"]
"""In what a model tells boxes: pixels of the picture that it is sent, thousandths of its sides, or parts of
them from 0 to 1."""

_VIEW: Final = re.compile(r"(?P<side>[1-9]\d{0,4})(:(?P<multiple>[1-9]\d{0,3}))?")
_FIXED: Final = re.compile(r"(?P<width>[1-9]\d{0,4})x(?P<height>[1-9]\d{0,4})")
_CELL: Final = 28
"""Of Qwen2.5-VL, in pixels; others bring pictures to multiples of their own."""

_OURS: Final = frozenset(
    {"model", "messages", "stream", "stream_options", "logprobs", "top_logprobs", "temperature", "n"}
)


def parsed_view(text: str) -> View:
    """A view in a few characters: `448` or `448:28` for at most 448² pixels, the shape kept, both sides
    multiples of 28; `640x480` for that size, whatever the shape.

    Raises:
        SettingsError: it is neither.
    """
    fixed, budget = _FIXED.fullmatch(text), _VIEW.fullmatch(text)
    if fixed is not None:
        return View(size=Fixed(width=int(fixed["width"]), height=int(fixed["height"])))
    if budget is not None:
        side, multiple = int(budget["side"]), int(budget["multiple"] or _CELL)
        if side >= 2 * multiple:
            least = (2 * multiple) ** 2
            return View(size=Budget(multiple=multiple, least_pixels=least, most_pixels=side**2))
    raise SettingsError(
        f"a view is 448 (at most 448x448 pixels, in any shape), 448:28 (both sides multiples of 28, and at "
        f"least two of them) or 640x480, not {text!r}"
    )


def side_of(view: View) -> int:
    """Of the square that `parsed_view` made a view for, or the shorter side of its one size, in pixels."""
    rule = view.size
    assert not isinstance(rule, Tiles), "an operator names none"
    return math.isqrt(rule.most_pixels) if isinstance(rule, Budget) else min(rule.width, rule.height)


@validated(frozen=True)
class UpstreamSettings:
    """A server with a model.

    Attributes:
        url: its address; without a path, `/v1` is meant.
        model: one of its models; None: its only one.
        client: its key, headers and certificates, time-outs and tries.
        global_view, local_view: how large pictures are sent to it.
        crop_size: side of the smallest region asked for, in original pixels.
        box: in what its model tells boxes.
        max_new_tokens: of answers whose request does not say.
        slots: looks asked about at once; more of them wait.
        pointing: asks for a box; `{question}` stands for the question.
        extra: further fields of every request, such as `{"chat_template_kwargs": {...}}`.
        max_question_characters: longest question taken.
    """

    url: str
    model: Annotated[str, Field(min_length=1)] | None = None
    client: ClientSettings = field(default_factory=lambda: ClientSettings(retries=3, wait_budget=10.0))
    global_view: View = field(default_factory=lambda: parsed_view("448"))
    local_view: View = field(default_factory=lambda: parsed_view("448"))
    crop_size: PositiveInt = 448
    box: BoxUnits = "thousandths"
    max_new_tokens: PositiveInt = 128
    slots: PositiveInt = 16
    pointing: str = (
        "Give the bounding box of the part of the image that one must look at to answer: {question}\n"
        "Reply with nothing but JSON: [x1, y1, x2, y2]"
    )
    extra: dict[str, Any] = field(default_factory=dict, hash=False)
    max_question_characters: PositiveInt = DEFAULT_MAX_CHARACTERS

    def __post_init__(self) -> None:
        ours = _OURS & self.extra.keys()
        if ours:
            raise SettingsError(f"the upstream's extra fields cannot have {', '.join(sorted(ours))}")
        if "{question}" not in self.pointing:
            raise SettingsError(
                "--upstream-pointing (pointing) needs {question}, where the question is to stand, and is "
                f"{self.pointing!r}"
            )
