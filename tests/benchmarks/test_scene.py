"""Scenes: determinism, splits, and what stands in them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.samples import drawn_scene
from secondlook.benchmarks.signs.scene import COLOURS, REFERENCE_SIDE, Scene, Split, scene_generator

SPLITS: tuple[Split, ...] = ("train", "calibration", "test")
KEYS = st.integers(0, 2**40)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [drawn_scene("test", 5, index) for index in range(250)]


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_is_a_function_of_split_seed_and_index(split: Split) -> None:
    scene = drawn_scene(split, 3, 8)
    assert drawn_scene(split, 3, 8) == scene
    assert drawn_scene(split, 3, 9) != scene
    assert drawn_scene(split, 4, 8) != scene


@given(seeds=st.tuples(KEYS, KEYS, KEYS), indices=st.tuples(KEYS, KEYS, KEYS), same=st.booleans())
def test_no_two_splits_share_a_generator(
    seeds: tuple[int, int, int], indices: tuple[int, int, int], same: bool
) -> None:
    draws = {
        tuple(
            scene_generator(split, seeds[0 if same else i], indices[0 if same else i]).integers(2**62, size=4)
        )
        for i, split in enumerate(SPLITS)
    }
    assert len(draws) == 3


def test_sizes_are_those_of_photographs(scenes: list[Scene]) -> None:
    megapixels = np.array([scene.size.pixels / 1e6 for scene in scenes])
    assert megapixels.min() >= 0.999
    assert megapixels.max() <= 12.01
    assert megapixels.min() < 1.5
    assert megapixels.max() > 9
    shapes = {round(scene.size.width / scene.size.height, 2) for scene in scenes}
    assert shapes == {1.33, 1.5, 1.78, 1.0, 0.75}


def test_one_to_five_signs_of_distinct_colours_stand_from_left_to_right(scenes: list[Scene]) -> None:
    assert {len(scene.signs) for scene in scenes} == {1, 2, 3, 4, 5}
    for scene in scenes:
        colours = [sign.colour for sign in scene.signs]
        assert len(set(colours)) == len(colours)
        assert set(colours) <= set(COLOURS)
        assert [sign.x for sign in scene.signs] == sorted(sign.x for sign in scene.signs)
        assert all(10 <= sign.number <= 99 for sign in scene.signs)


def test_every_colour_and_every_digit_occurs(scenes: list[Scene]) -> None:
    signs = [sign for scene in scenes for sign in scene.signs]
    assert {sign.colour for sign in signs} == set(COLOURS)
    assert {sign.number // 10 for sign in signs} == set(range(1, 10))
    assert {sign.number % 10 for sign in signs} == set(range(10))


def test_signs_lie_inside_and_apart(scenes: list[Scene]) -> None:
    for scene in scenes:
        for sign in scene.signs:
            assert sign.box.within(scene.size)
            assert sign.box.contains(sign.x, sign.y)
        for one, other in combinations([sign.box for sign in scene.signs], 2):
            apart_across = one.right <= other.left or other.right <= one.left
            apart_down = one.bottom <= other.top or other.bottom <= one.top
            assert apart_across or apart_down


def test_the_box_is_the_plates(scenes: list[Scene]) -> None:
    for sign in (sign for scene in scenes[:50] for sign in scene.signs):
        assert sign.box.width == pytest.approx(2.1 * sign.digit_height, abs=2)
        assert sign.box.height == pytest.approx(1.7 * sign.digit_height, abs=2)


def test_many_signs_are_too_small_for_the_global_image_and_most_are_not(scenes: list[Scene]) -> None:
    heights = np.array([scene.global_digit_height(sign) for scene in scenes for sign in scene.signs])
    assert heights.min() >= 2.4
    assert heights.max() <= 36.0
    assert 0.3 < (heights < 3.6).mean() < 0.47
    assert 0.5 < (heights > 12.9).mean() < 0.68


def test_global_digit_height_is_measured_in_the_reference_square() -> None:
    scene = drawn_scene("test", 0, 0)
    sign = scene.signs[0]
    area = scene.size.width * scene.size.height
    assert scene.global_digit_height(sign) == pytest.approx(sign.digit_height * REFERENCE_SIDE / area**0.5)
