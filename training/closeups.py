"""Close-ups of signs with the truth for every patch: what the vision tower learns to read from first.

A close-up is a 56-pixel window (4 by 4 patches) with as many plates as find room, squashed as a model's
global images are, JPEG-coded as the edge would. Digits are 8 to 28 pixels high there; larger ones do not fit
a close-up and are learnt from whole pictures.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from secondlook.benchmarks.signs.render import render_window
from secondlook.benchmarks.signs.scene import (
    COLOURS,
    PLATE_HEIGHT,
    PLATE_WIDTH,
    Scene,
    Sign,
    overlap,
    sample_scene,
    scene_generator,
)
from secondlook.edge.geometry import Region, Size
from training.model import PATCH

__all__ = ["IGNORED", "SIDE", "CloseUps", "PatchTruth", "patch_truth"]

IGNORED: Final = -100
"""Label of a patch whose loss does not count."""

SIDE: Final = 56
"""Of a close-up, in pixels."""
_HEIGHTS: Final = (8.0, 28.0)
_PLATES: Final = 6
_PER_BACKDROP: Final = 32
_REUSE: Final = 2
_BUFFER: Final = 6144
_COLOUR_NAMES: Final = tuple(COLOURS)
_COLOUR_LABELS: Final = {colour: label for label, colour in enumerate(COLOURS, start=1)}


@dataclass(frozen=True)
class PatchTruth:
    """Labels of every patch, each [rows, columns] int64.

    colour (0: no sign), tens and units digit, and whether a sign's centre is in it (1) or not (0).
    """

    colour: npt.NDArray[np.int64]
    tens: npt.NDArray[np.int64]
    units: npt.NDArray[np.int64]
    centre: npt.NDArray[np.int64]

    def stacked(self) -> torch.Tensor:
        """The four label maps as one tensor [4, rows, columns]."""
        return torch.from_numpy(np.stack([self.colour, self.tens, self.units, self.centre]))


def patch_truth(signs: tuple[Sign, ...], window: Region, seen: Size, readable: float = 5.0) -> PatchTruth:
    """What each patch of a picture of `window` shows, `seen` in that size.

    A patch shows a sign when the plate covers a fifth of it, or more of it than of any other patch. Digits
    lower than `readable` pixels, and those of plates cut by the window, carry no digit label.
    """
    rows, columns = seen.height // PATCH, seen.width // PATCH
    colour = np.zeros((rows, columns), np.int64)
    digits = np.full((2, rows, columns), IGNORED, np.int64)
    centre = np.zeros((rows, columns), np.int64)
    scale_x, scale_y = seen.width / window.width, seen.height / window.height
    lefts, tops = np.arange(columns) * float(PATCH), np.arange(rows) * float(PATCH)
    for sign in signs:
        x, y = (sign.x - window.left) * scale_x, (sign.y - window.top) * scale_y
        half_x = sign.digit_height * PLATE_WIDTH / 2 * scale_x
        half_y = sign.digit_height * PLATE_HEIGHT / 2 * scale_y
        across = np.clip(np.minimum(lefts + PATCH, x + half_x) - np.maximum(lefts, x - half_x), 0, None)
        down = np.clip(np.minimum(tops + PATCH, y + half_y) - np.maximum(tops, y - half_y), 0, None)
        covered = down[:, None] * across[None, :] / PATCH**2
        if covered.max() <= 0:
            continue
        shows = (covered >= 0.2) | (covered >= 0.999 * covered.max())
        colour[shows] = _COLOUR_LABELS[sign.colour]
        colour[(covered > 0) & ~shows] = IGNORED
        column, row = int(x // PATCH), int(y // PATCH)
        near = (np.abs(tops + PATCH / 2 - y) < PATCH)[:, None] & (np.abs(lefts + PATCH / 2 - x) < PATCH)
        centre[near & (centre == 0)] = IGNORED
        if 0 <= row < rows and 0 <= column < columns:
            centre[row, column] = 1
        margin_x, margin_y = half_x * 0.75, half_y * 0.65
        whole = margin_x <= x <= seen.width - margin_x and margin_y <= y <= seen.height - margin_y
        if whole and sign.digit_height * min(scale_x * 1.15, scale_y) >= readable:
            digits[0][shows], digits[1][shows] = divmod(sign.number, 10)
    return PatchTruth(colour, digits[0], digits[1], centre)


class CloseUps(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """An endless stream of (pixels uint8 [3, 56, 56], labels int64 [4, 4, 4]), a function of seed and worker.

    Drawing costs more than learning, so each close-up passes through a shuffling buffer and is shown about
    twice.
    """

    def __init__(self, squashes: tuple[float, ...], seed: int) -> None:
        """
        Args:
            squashes: see `Architecture`.
        """
        self.squashes = squashes
        self.seed = seed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = get_worker_info()
        index = 0 if worker is None else worker.id
        rng = scene_generator("train", self.seed, 1_000_000_000 + index)
        fresh = self._draw(rng)
        buffer: list[tuple[torch.Tensor, torch.Tensor]] = []
        for count, place in enumerate(iter(lambda: int(rng.integers(_BUFFER)), -1)):
            if len(buffer) < _BUFFER:
                buffer.append(next(fresh))
                yield buffer[-1]
                continue
            yield buffer[place]
            if count % _REUSE == 0:
                buffer[place] = next(fresh)

    def _draw(self, rng: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        seen = Size(SIDE, SIDE)
        while True:
            scene = sample_scene(rng)
            for _ in range(_PER_BACKDROP):
                window = _window(rng, scene, self.squashes[rng.integers(len(self.squashes))])
                signs = _plates(rng, window)
                picture = render_window(replace(scene, signs=signs), window, seen)
                pixels = torch.from_numpy(np.array(_through_jpeg(picture, int(rng.integers(80, 97)))))
                yield pixels.permute(2, 0, 1).contiguous(), patch_truth(signs, window, seen).stacked()


def _window(rng: np.random.Generator, scene: Scene, squash: float) -> Region:
    """A window of the scene, its height over its width stretched by `squash`."""
    height = float(rng.uniform(0.9, min(4.5, 0.4 * scene.size.width / SIDE * min(1.0, squash)))) * SIDE
    width = min(height / squash, scene.size.width - 2.0)
    left = float(rng.uniform(0, scene.size.width - width - 1))
    top = float(rng.uniform(0, max(1.0, scene.size.height - height - 1)))
    return Region(int(left), int(top), int(left + width) + 1, int(top + height) + 1)


def _plates(rng: np.random.Generator, window: Region) -> tuple[Sign, ...]:
    """Signs for the window, shown at heights drawn log-uniformly, mostly whole: those that find room."""
    low, high = _HEIGHTS
    signs: list[Sign] = []
    for _ in range(_PLATES):
        digit_height = low * (high / low) ** rng.random() * window.height / SIDE
        free_x = max(0.1, 0.55 - 0.5 * PLATE_WIDTH * digit_height / window.width)
        free_y = max(0.1, 0.55 - 0.5 * PLATE_HEIGHT * digit_height / window.height)
        sign = Sign(
            colour=_COLOUR_NAMES[rng.integers(len(_COLOUR_NAMES))],
            number=int(rng.integers(10, 100)),
            x=window.left + window.width * (0.5 + float(rng.uniform(-free_x, free_x))),
            y=window.top + window.height * (0.5 + float(rng.uniform(-free_y, free_y))),
            digit_height=digit_height,
            angle=float(rng.normal(0, 3)),
            tint=(float(rng.normal(1, 0.05)), float(rng.normal(1, 0.05)), float(rng.normal(1, 0.05))),
        )
        if not any(overlap(sign, other) for other in signs):
            signs.append(sign)
    return tuple(signs)


def _through_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return Image.open(buffer).convert("RGB")
