"""Groups of questions and the quality of regions, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.logs import random_records
from benchmarks.samples import a_look, a_record
from secondlook.benchmarks.analysis.bootstrap import Bootstrap
from secondlook.benchmarks.analysis.groups import by_box, by_kind, by_megapixels, summed_up
from secondlook.benchmarks.analysis.regions import region_quality
from secondlook.benchmarks.records import Record
from secondlook.benchmarks.replay import Replay
from secondlook.engine.method.policy import Policy


def study(records: list[Record]) -> tuple[Replay, Bootstrap]:
    replay = Replay(records, Policy(0.0))
    return replay, Bootstrap(replay.columns.picture, resamples=100)


WRONG, RIGHT, VAGUE = a_look(0.0, [1.0]), a_look(1.0, [0.1]), a_look(0.0, [2.0])
RECORDS = [
    replace(a_record(0, WRONG, RIGHT), original_pixels=1_500_000, boxes=((0.0, 0.0, 30.0, 30.0),)),
    replace(a_record(1, RIGHT, VAGUE), original_pixels=3_000_000),
    replace(a_record(2, WRONG, VAGUE, kind="exists"), original_pixels=2_000_000),
    replace(a_record(3, RIGHT, kind="exists"), original_pixels=40_000_000),
]


def test_what_is_mended_and_broken() -> None:
    found = summed_up("all", *study(RECORDS))
    assert found.count == 4
    assert [each.value for each in (found.first, found.second, found.kept)] == [0.5, 0.5, 0.75]
    assert [each.value for each in (found.gain, found.mended, found.broken)] == [0.0, 0.25, 0.25]
    assert found.hit.value == 1.0


def test_groups_part_the_questions() -> None:
    assert [(group.name, group.count) for group in by_kind(*study(RECORDS))] == [("exists", 2), ("read", 2)]
    sizes = [(group.name, group.count, group.mended.value) for group in by_megapixels(*study(RECORDS))]
    assert sizes == [("1 to 2 MP", 1, 1.0), ("2 to 4 MP", 2, 0.0), ("32 or more MP", 1, 0.0)]


def test_boxes_are_as_large_as_the_global_image_shows_them() -> None:
    # 900 of 1,500,000 pixels are 0.06 of a global image of 100, a square of a quarter of a pixel.
    (group,) = by_box(*study(RECORDS))
    assert (group.name, group.count) == ("below 2 pixels", 1)
    larger = replace(RECORDS[0], first=a_look(0.0, [1.0], pixels=28_224), boxes=((0.0, 0.0, 60.0, 60.0),))
    (group,) = by_box(*study([larger]))  # 60 · 168 / √1,500,000 = 8.2
    assert group.name == "8 to 16 pixels"


def test_every_group_is_the_run_of_its_questions_alone() -> None:
    records = random_records(40)
    for group in by_kind(*study(records)):
        alone = [record for record in records if record.type == group.name]
        other = summed_up(group.name, *study(alone))
        assert group.count == other.count
        for name in ("first", "second", "kept", "gain", "mended", "broken", "hit"):
            assert getattr(group, name).value == pytest.approx(getattr(other, name).value, nan_ok=True)


def test_the_quality_of_regions() -> None:
    boxed = replace(RECORDS[0], boxes=((0.0, 20.0, 20.0, 40.0),))  # half of it in the region, 10 to 110
    missed = replace(RECORDS[2], boxes=((500.0, 500.0, 520.0, 520.0),), region_hit=False)
    unknown = replace(RECORDS[1], region_hit=None)
    found = region_quality(*study([boxed, missed, unknown, RECORDS[3]]))
    assert found is not None
    assert (found.count, found.hit.value, found.covered.value) == (2, 0.5, 0.25)
    assert found.area.value == pytest.approx((10_000 / 1.5e6 + 10_000 / 2e6) / 2)
    assert (found.second_hit.value, found.second_missed.value) == (1.0, 0.0)


def test_without_boxes_there_is_no_quality_of_regions() -> None:
    assert region_quality(*study([replace(RECORDS[1], region_hit=None)])) is None
    assert np.isnan(summed_up("all", *study([replace(RECORDS[1], region_hit=None)])).hit.value)
