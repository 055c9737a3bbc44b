"""Sizes, regions and views.

Two frames occur. *Original pixels*: x to the right, y down, (0, 0) the top left corner of the upright
picture. *Target pixels*: what the model takes, into which the picture was squashed or padded. Coordinates are
continuous: pixel i covers [i, i + 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from pydantic import PositiveInt

from .errors import GeometryError
from .validation import validated
from .wire import Budget, Fit, Fixed, Tiles, View

__all__ = [
    "Placement",
    "Rectangle",
    "Region",
    "Size",
    "inside",
    "most_pixels",
    "moved",
    "place",
    "sent_size",
    "sheet",
    "target",
    "too_slender",
]

_MOST_SLENDER = 200
"""Longer sides over shorter ones above this have no size under a budget, as in the models' own processors."""


@validated(frozen=True, raises=GeometryError)
class Size:
    """Width and height in pixels, both at least 1; else `GeometryError`."""

    width: PositiveInt
    height: PositiveInt

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def longer(self) -> int:
        return max(self.width, self.height)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@validated(frozen=True, raises=GeometryError)
class Region:
    """A box in original pixels, half open: left and top are inside it, right and bottom just outside.

    0 <= left < right and 0 <= top < bottom, else `GeometryError`.
    """

    left: int
    top: int
    right: int
    bottom: int

    def __post_init__(self) -> None:
        if not (0 <= self.left < self.right and 0 <= self.top < self.bottom):
            raise GeometryError(f"region {self} is empty or begins outside the picture")

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def size(self) -> Size:
        return Size(self.width, self.height)

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) in continuous original pixels."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def within(self, size: Size) -> bool:
        """Whether a picture of this size contains the whole region."""
        return self.right <= size.width and self.bottom <= size.height

    def contains(self, x: float, y: float) -> bool:
        return self.left <= x < self.right and self.top <= y < self.bottom

    def holds(self, boxes: Iterable[Rectangle]) -> bool:
        """Whether the region contains the centre of every box."""
        return all(self.contains((box.left + box.right) / 2, (box.top + box.bottom) / 2) for box in boxes)

    def covers(self, size: Size) -> bool:
        """Whether the region contains the whole of a picture of this size."""
        return self.left == 0 and self.top == 0 and self.right >= size.width and self.bottom >= size.height

    def as_tuple(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom), as Pillow's `crop` takes it."""
        return self.left, self.top, self.right, self.bottom

    def __str__(self) -> str:
        return f"({self.left}, {self.top}, {self.right}, {self.bottom})"


class Placement(NamedTuple):
    """Where the picture lies inside the target, in target pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def size(self) -> Size:
        return Size(self.width, self.height)


def target(view: View, original: Size) -> Size:
    """What the model takes of an original (or region) of this size.

    Under a budget both sides are the nearest multiples, and smaller or larger ones where the picture would
    have too many or too few pixels: the rule of Qwen2-VL (Wang et al., arXiv 2409.12191), equal to
    `smart_resize` of its published processor for every size. Under tiles the picture's own shape fills its
    sheet in one direction, as in LLaVA-NeXT.

    Raises:
        GeometryError: it is too slender for the view.
    """
    rule = view.size
    if isinstance(rule, Fixed):
        return Size(rule.width, rule.height)
    if isinstance(rule, Tiles):
        return _within_sheet(sheet(rule, original), original)
    if too_slender(view, original):
        raise GeometryError(
            f"a picture of {original} pixels is too slender for this model: one side may be at most "
            f"{_MOST_SLENDER} times the other; crop it"
        )
    return _within_budget(rule, original)


def too_slender(view: View, original: Size) -> bool:
    """Whether an original (or region) of this size has no target: under a budget, where one side is more than
    200 times the other."""
    shape = original.longer / min(original.width, original.height)
    return isinstance(view.size, Budget) and shape > _MOST_SLENDER


def _within_budget(rule: Budget, original: Size) -> Size:
    width, height, multiple = original.width, original.height, rule.multiple
    across, down = round(width / multiple) * multiple, round(height / multiple) * multiple
    if across * down > rule.most_pixels:
        shrink = math.sqrt(height * width / rule.most_pixels)
        across = max(multiple, math.floor(width / shrink / multiple) * multiple)
        down = max(multiple, math.floor(height / shrink / multiple) * multiple)
    elif across * down < rule.least_pixels:
        grow = math.sqrt(rule.least_pixels / (height * width))
        across = math.ceil(width * grow / multiple) * multiple
        down = math.ceil(height * grow / multiple) * multiple
    return Size(across, down)


def sheet(rule: Tiles, original: Size) -> Size:
    """The sheet that shows most of an original's pixels; of several such, the one with the least padding.

    Equal to `select_best_resolution` of transformers for every size: its order and its roundings.
    """
    width, height = original.width, original.height

    def worth(choice: tuple[int, int]) -> tuple[int, int]:
        scale = min(choice[0] / width, choice[1] / height)
        seen = min(int(width * scale) * int(height * scale), original.pixels)
        return seen, -choice[0] * choice[1]

    return Size(*max(rule.sheets, key=worth))


def _within_sheet(sheet: Size, original: Size) -> Size:
    """As `get_patch_output_size` of transformers has it, its roundings included."""
    across, down = sheet.width / original.width, sheet.height / original.height
    if across < down:
        return Size(sheet.width, min(math.ceil(original.height * across), sheet.height))
    return Size(min(math.ceil(original.width * down), sheet.width), sheet.height)


def most_pixels(view: View) -> int:
    """No target has more pixels, whatever the original. Under a budget these may be more than it says, where
    one side of a slender or a small picture is a single multiple."""
    rule = view.size
    if isinstance(rule, Fixed):
        return rule.width * rule.height
    if isinstance(rule, Tiles):
        return max(width * height for width, height in rule.sheets)
    cell = rule.multiple**2
    # Shrunk pictures have no more than the budget, or one cell across. Those that grow, up to the least, have
    # in each direction what that needs, rounded up; two across, say, and twice the rest and one down.
    least = rule.least_pixels
    grown = (n * (least // (cell * (n - 1)) + 1) for n in range(2, math.isqrt(least // cell) + 2))
    shrunk = rule.most_pixels // cell, math.isqrt(_MOST_SLENDER * rule.most_pixels // cell)
    return cell * max(*shrunk, math.isqrt(_MOST_SLENDER * least // cell) + 1, *grown)


def place(image: Size, target: Size, fit: Fit) -> Placement:
    """Where a picture of this size goes in a target.

    `squash` fills it. `pad` keeps the aspect ratio: the picture is as large as fits, its other side rounded
    to whole pixels (at least 1) and centred, an odd pixel left over going right or to the bottom.
    """
    if fit == "squash":
        return Placement(0, 0, target.width, target.height)
    if fit != "pad":
        raise GeometryError(f"fit should be 'squash' or 'pad', not {fit!r}")
    if image.width * target.height >= image.height * target.width:
        width, height = target.width, _scaled(image.height, target.width, image.width)
    else:
        width, height = _scaled(image.width, target.height, image.height), target.height
    return Placement((target.width - width) // 2, (target.height - height) // 2, width, height)


def sent_size(view: View, original: Size) -> Size:
    """How large an edge sends an original (or region) of this size: never enlarged, and never padded.

    The server enlarges it, and pads it, to the target.

    Raises:
        GeometryError: see `target`.
    """
    placed = place(original, target(view, original), view.fit)
    return Size(min(placed.width, original.width), min(placed.height, original.height))


def _scaled(length: int, numerator: int, denominator: int) -> int:
    """length · numerator / denominator, rounded half up, at least 1; exact for any integers."""
    return max(1, (2 * length * numerator + denominator) // (2 * denominator))


class Rectangle(NamedTuple):
    """A rectangle in continuous original pixels; it may reach outside the picture."""

    left: float
    top: float
    right: float
    bottom: float


def moved(place: Rectangle, before: Rectangle, after: Rectangle, original: Size) -> Rectangle:
    """Where a place of one frame is in another, by known motion.

    Args:
        place: in the first frame's pixels.
        before, after: what the two frames show of the world, in any units that both share.
        original: the size of both frames, in pixels.

    Returns: in the other frame's pixels; it may lie outside that.
    """

    def along(value: float, length: int, before: tuple[float, float], after: tuple[float, float]) -> float:
        world = before[0] + value * (before[1] - before[0]) / length
        return (world - after[0]) * length / (after[1] - after[0])

    across = (before.left, before.right), (after.left, after.right)
    down = (before.top, before.bottom), (after.top, after.bottom)
    return Rectangle(
        along(place.left, original.width, *across),
        along(place.top, original.height, *down),
        along(place.right, original.width, *across),
        along(place.bottom, original.height, *down),
    )


def inside(place: Rectangle, original: Size) -> Region | None:
    """The place in whole pixels, shifted into the picture and no larger; None: its centre is outside."""
    x, y = (place.left + place.right) / 2, (place.top + place.bottom) / 2
    if not (0 <= x < original.width and 0 <= y < original.height):
        return None
    width = min(max(1, round(place.right - place.left)), original.width)
    height = min(max(1, round(place.bottom - place.top)), original.height)
    left = min(max(0, round(x - width / 2)), original.width - width)
    top = min(max(0, round(y - height / 2)), original.height - height)
    return Region(left, top, left + width, top + height)
