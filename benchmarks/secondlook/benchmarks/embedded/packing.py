"""Lessons as batches: looks padded to one length, in which each question sees the pictures and itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from secondlook.benchmarks.embedded.closeups import IGNORED
from secondlook.benchmarks.embedded.lessons import Lesson, Look

__all__ = ["Batch", "Packed", "collate"]

SECOND_LOOKS: Final = 0.625
"""Share of the lessons whose second look is trained on; it costs twice a first look."""


@dataclass(frozen=True)
class Packed:
    """Looks of equal kind, padded to one length T.

    ids, positions, labels int64 [B, T]; mask bool [B, 1, T, T]; images int64 [B, M], where the visual tokens
    are; probes int64 [P, 3] (row, position, cue or -1) with wanted attention targets float32 [P, M].
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    mask: Tensor
    images: Tensor
    probes: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Packed:
        """The same on a device."""
        return Packed(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Batch:
    """Pixels uint8 [B + C, 3, S, S] and patch labels [B + C, 4, n, n], and the looks at them.

    B global images come first, then the local images of the first C lessons, which have a second look.
    """

    pixels: Tensor
    patches: Tensor
    first: Packed
    second: Packed

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


def collate(lessons: list[Lesson], image_token: int) -> Batch:
    """Stack lessons, some with a second look; padding tokens see only one another and count for nothing."""
    twice = lessons[: max(1, round(SECOND_LOOKS * len(lessons)))]
    return Batch(
        torch.stack([lesson.pixels[0] for lesson in lessons] + [lesson.pixels[1] for lesson in twice]),
        torch.stack([lesson.patches[0] for lesson in lessons] + [lesson.patches[1] for lesson in twice]),
        _pack([lesson.first for lesson in lessons], image_token),
        _pack([lesson.second for lesson in twice], image_token),
    )


def _pack(looks: list[Look], image_token: int) -> Packed:
    length = max(len(look.ids) for look in looks)

    def padded(rows: list[list[int]], value: int) -> Tensor:
        return torch.tensor([row + [value] * (length - len(row)) for row in rows])

    ids = padded([look.ids for look in looks], 0)
    segments = padded([look.segments for look in looks], -1)
    own = segments[:, :, None] == segments[:, None, :]
    shared = (segments[:, None, :] == 0) & (segments[:, :, None] >= 0)
    mask = (own | shared) & torch.ones(length, length, dtype=torch.bool).tril()
    return Packed(
        ids=ids,
        positions=padded([look.positions for look in looks], 0),
        labels=padded([look.labels for look in looks], IGNORED),
        mask=mask[:, None],
        images=torch.stack([(row == image_token).nonzero().squeeze(1) for row in ids]),
        probes=torch.tensor(
            [
                (row, *probe)
                for row, look in enumerate(looks)
                for probe in zip(look.probes, look.cues, strict=True)
            ]
        ),
        targets=torch.stack([torch.from_numpy(target) for look in looks for target in look.targets]),
    )
