"""Where a second look helps and where it hurts: by kind of question, by size of picture and of box; and how
good the regions are, where it is known what is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from secondlook.benchmarks.analysis.columns import BoolArray, FloatArray
from secondlook.benchmarks.analysis.replay import Replay
from secondlook.benchmarks.analysis.statistics import Bootstrap, Estimate

_MEGAPIXELS: Final = (0.25, 0.5, 1, 2, 4, 8, 16, 32)
_BOX_SIDES: Final = (2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Group:
    """Some questions of a run, each looked at twice.

    Attributes:
        first, second: accuracy of the first answers, and of the second ones as they are.
        kept: the same with arbitration.
        gain: second less first.
        mended, broken: shares of the questions whose second answer is better, and worse.
        hit: the share whose region holds what is asked for, where that is known.
    """

    name: str
    count: int
    first: Estimate
    second: Estimate
    kept: Estimate
    gain: Estimate
    mended: Estimate
    broken: Estimate
    hit: Estimate


def summed_up(name: str, replay: Replay, boot: Bootstrap, chosen: BoolArray | None = None) -> Group:
    """Of the questions chosen, or of all."""
    gain = replay.second - replay.first
    values = (replay.first, replay.second, replay.kept, gain, gain > 0, gain < 0, replay.columns.hit)
    taken = np.ones(len(gain), np.bool_) if chosen is None else chosen
    means = boot.means(*(np.where(taken, each, np.nan) for each in values))
    return Group(name, int(taken.sum()), *means)


def by_kind(replay: Replay, boot: Bootstrap) -> list[Group]:
    kinds = np.array(replay.columns.kind)
    return [summed_up(str(kind), replay, boot, kinds == kind) for kind in np.unique(kinds)]


def by_megapixels(replay: Replay, boot: Bootstrap) -> list[Group]:
    size = replay.columns.original_pixels / 1e6
    return [summed_up(name, replay, boot, inside) for name, inside in _between(size, _MEGAPIXELS, "MP")]


def by_box(replay: Replay, boot: Bootstrap) -> list[Group]:
    """By the size of what is asked for as the global image shows it: the side, in its pixels, of a square as
    large as the boxes. Questions without a box are left out."""
    columns = replay.columns
    side = np.sqrt(columns.box_pixels * columns.first.pixels / columns.original_pixels)
    return [summed_up(name, replay, boot, inside) for name, inside in _between(side, _BOX_SIDES, "pixels")]


def _between(values: FloatArray, edges: tuple[float, ...], unit: str) -> Iterator[tuple[str, BoolArray]]:
    """Names of those intervals that any value is in, and which are; NaN is in none."""
    bounds = (-np.inf, *edges, np.inf)
    for low, high in pairwise(bounds):
        inside = (values >= low) & (values < high)
        if inside.any():
            below = f"below {high:g}" if np.isneginf(low) else f"{low:g} to {high:g}"
            yield f"{low:g} or more {unit}" if np.isposinf(high) else f"{below} {unit}", inside


@dataclass(frozen=True)
class RegionQuality:
    """Of the questions with a box and a region.

    Attributes:
        hit: the share of regions that hold the centre of every box.
        covered: the mean share of the boxes' area that is within the region.
        area: the mean share of the original that the region is.
        second_hit, second_missed: accuracy of the second answers where the region hit, and where it missed.
    """

    count: int
    hit: Estimate
    covered: Estimate
    area: Estimate
    second_hit: Estimate
    second_missed: Estimate


def region_quality(replay: Replay, boot: Bootstrap) -> RegionQuality | None:
    """None where no box is known."""
    columns = replay.columns
    hit = columns.hit
    known = ~np.isnan(hit)
    if not known.any():
        return None
    left, top, right, bottom = columns.region.T
    area = np.where(known, (right - left) * (bottom - top) / columns.original_pixels, np.nan)
    means = boot.means(
        hit,
        np.where(known, columns.box_covered, np.nan),
        area,
        np.where(hit == 1, replay.second, np.nan),
        np.where(hit == 0, replay.second, np.nan),
    )
    return RegionQuality(int(known.sum()), *means)
