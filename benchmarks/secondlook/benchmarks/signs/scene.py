"""What stands in a *signs* picture: sizes, places, colours and numbers, drawn from a seed before any pixel.

A scene is a photograph-sized canvas (1 to 12 megapixels) with one to five plates, each of its own colour,
each with a two-digit number. How large a plate is matters only relative to what a shrunken picture can show,
so sizes are drawn as the digit height that a `REFERENCE_SIDE`-pixel global image would have: *small* digits
(2.4 to 3.6 pixels) cannot be read there although the plate's colour can be seen, *large* ones (13 to 36) can,
and a few lie between.

A scene is a pure function of (split, seed, index). The split is part of the random generator's key, so no two
splits ever share a generator, whatever the seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from secondlook.edge.geometry import Rectangle, Region, Size

Split = Literal["train", "calibration", "test"]

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (205, 25, 35),
    "orange": (250, 125, 10),
    "yellow": (250, 215, 30),
    "green": (20, 145, 65),
    "blue": (25, 80, 200),
    "purple": (135, 40, 160),
}
"""Plate colours (sRGB), before the small per-sign variation."""

REFERENCE_SIDE: Final = 168
"""Side in pixels of the square that digit heights are expressed in."""

_SPLIT_KEYS: Final[dict[Split, int]] = {"train": 101, "calibration": 202, "test": 303}
_ASPECTS: Final = ((4, 3), (3, 2), (16, 9), (1, 1), (3, 4))
_MEGAPIXELS: Final = (1.0, 12.0)
_SIZE_CLASSES: Final = ((2.4, 3.6), (3.6, 13.0), (13.0, 36.0))
_SIZE_CHANCES: Final = (0.37, 0.04, 0.59)
PLATE_HEIGHT: Final = 1.7
PLATE_WIDTH: Final = 2.1
"""A plate's height and width, in digit heights."""


@dataclass(frozen=True)
class Sign:
    """One plate. Lengths are in original pixels, the angle in degrees (anticlockwise)."""

    colour: str
    number: int
    x: float
    y: float
    digit_height: float
    angle: float
    tint: tuple[float, float, float]

    @property
    def plate(self) -> Rectangle:
        """The upright rectangle around the unrotated plate."""
        across, down = self.digit_height * PLATE_WIDTH / 2, self.digit_height * PLATE_HEIGHT / 2
        return Rectangle(self.x - across, self.y - down, self.x + across, self.y + down)

    @property
    def box(self) -> Region:
        """The same in whole pixels: the ground truth for region search."""
        left, top, right, bottom = self.plate
        return Region(int(left), int(top), int(np.ceil(right)), int(np.ceil(bottom)))


@dataclass(frozen=True)
class Scene:
    """A picture to be drawn: its size, its signs (left to right) and the key of its background."""

    size: Size
    signs: tuple[Sign, ...]
    background: int

    def global_digit_height(self, sign: Sign) -> float:
        """The digit height, in pixels, that a `REFERENCE_SIDE` global image of this scene shows."""
        return sign.digit_height * REFERENCE_SIDE / float(np.sqrt(self.size.width * self.size.height))


def scene_generator(split: Split, seed: int, index: int) -> np.random.Generator:
    """The random generator of one scene; `seed` and `index` are non-negative."""
    return np.random.default_rng([_SPLIT_KEYS[split], seed, index])


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: size and aspect, then signs of distinct colours placed without overlap."""
    size = _sample_size(rng)
    wanted = int(rng.integers(1, 6))
    colours = rng.permutation(list(COLOURS))[:wanted]
    signs: list[Sign] = []
    for colour in colours:
        sign = _place(rng, size, str(colour), signs)
        if sign is not None:
            signs.append(sign)
    signs.sort(key=lambda sign: sign.x)
    return Scene(size, tuple(signs), int(rng.integers(2**31)))


def _sample_size(rng: np.random.Generator) -> Size:
    low, high = _MEGAPIXELS
    area = 1e6 * low * (high / low) ** rng.random()
    across, down = _ASPECTS[rng.integers(len(_ASPECTS))]
    width = round(float(np.sqrt(area * across / down)))
    return Size(width, round(width * down / across))


def _place(rng: np.random.Generator, size: Size, colour: str, others: list[Sign]) -> Sign | None:
    """A sign that fits beside the others; large ones shrink while no place is found. None: no room."""
    low, high = _SIZE_CLASSES[rng.choice(len(_SIZE_CLASSES), p=_SIZE_CHANCES)]
    reference = low * (high / low) ** rng.random()
    number = int(rng.integers(10, 100))
    angle = float(rng.normal(0, 3))
    tint = tuple(float(value) for value in rng.normal(1, 0.05, 3))
    for _ in range(40):
        digit_height = reference * float(np.sqrt(size.width * size.height)) / REFERENCE_SIDE
        half_width, half_height = digit_height * PLATE_WIDTH / 2, digit_height * PLATE_HEIGHT / 2
        margin = 0.15 * digit_height + 2
        if half_width + margin < size.width / 2 and half_height + margin < size.height / 2:
            x = float(rng.uniform(half_width + margin, size.width - half_width - margin))
            y = float(rng.uniform(half_height + margin, size.height - half_height - margin))
            sign = Sign(colour, number, x, y, digit_height, angle, (tint[0], tint[1], tint[2]))
            if not any(overlap(sign, other) for other in others):
                return sign
        if reference > _SIZE_CLASSES[2][0] * 1.05:
            reference *= 0.95
    return None


def overlap(a: Sign, b: Sign) -> bool:
    """Whether two plates touch, or nearly."""
    gap = 0.12 * (a.digit_height + b.digit_height)
    reach = (a.digit_height + b.digit_height) / 2
    return abs(a.x - b.x) < reach * PLATE_WIDTH + gap and abs(a.y - b.y) < reach * PLATE_HEIGHT + gap
