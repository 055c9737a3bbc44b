"""How good the regions are, where it is known what is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secondlook.benchmarks.analysis.bootstrap import Bootstrap, Estimate
from secondlook.benchmarks.replay import Replay

__all__ = ["RegionQuality", "region_quality"]


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
