"""Close-ups: what each patch is said to show, and the stream of them."""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch

from benchmarks.samples import a_sign
from secondlook.benchmarks.signs.scene import COLOURS, Sign
from secondlook.edge.geometry import Region, Size
from training.closeups import IGNORED, CloseUps, PatchTruth, patch_truth
from training.model import PATCH

SIDE = 12 * PATCH
SQUASHES = (1.0, 0.75, 1.33)
RED, GREEN = 1 + list(COLOURS).index("red"), 1 + list(COLOURS).index("green")


def truth(*signs: Sign, scale: int = 1) -> PatchTruth:
    """Of a square window with `scale` original pixels a pixel, away from the origin."""
    window = Region(1000, 500, 1000 + SIDE * scale, 500 + SIDE * scale)
    return patch_truth(signs, window, Size(SIDE, SIDE))


def placed(
    column: float, row: float, height: float, colour: str = "red", number: int = 42, scale: int = 1
) -> Sign:
    """A sign centred at grid coordinates, with digits of `height` pixels in the window's picture."""
    return a_sign(
        colour, number, 1000 + column * PATCH * scale, 500 + row * PATCH * scale, digit_height=height * scale
    )


def test_no_sign_means_no_colour_and_no_digits() -> None:
    result = truth()
    assert (result.colour == 0).all()
    assert (result.tens == IGNORED).all()
    assert (result.units == IGNORED).all()
    assert result.stacked().shape == (4, 12, 12)
    assert result.stacked().dtype == torch.int64


def test_patches_covered_by_a_fifth_show_the_sign_and_those_less_covered_do_not_count() -> None:
    # A plate of 21 by 17 pixels in the middle of patch (2, 2): a quarter of each neighbour to the side is
    # covered, a tenth of those above and below.
    for scale in (1, 7):
        result = truth(placed(2.5, 2.5, height=10, scale=scale), scale=scale)
        expected = np.zeros((12, 12), np.int64)
        expected[1:4, 1:4] = IGNORED
        expected[2, 1:4] = RED
        assert (result.colour == expected).all()
        assert (result.tens == np.where(expected == RED, 4, IGNORED)).all()
        assert (result.units == np.where(expected == RED, 2, IGNORED)).all()


def test_a_tiny_sign_shows_its_colour_in_the_patch_it_covers_most_but_no_digits() -> None:
    result = truth(placed(5.3, 7.6, height=2))
    assert (np.argwhere(result.colour == RED) == [[7, 5]]).all()
    assert (result.tens == IGNORED).all()
    assert (result.units == IGNORED).all()


def test_a_tiny_sign_on_a_corner_shows_in_all_four_patches() -> None:
    result = truth(placed(4, 4, height=2))
    assert np.argwhere(result.colour == RED).tolist() == [[3, 3], [3, 4], [4, 3], [4, 4]]


def test_a_sign_cut_by_the_window_has_a_colour_but_no_digits() -> None:
    result = truth(placed(0.3, 6, height=20))
    assert (result.colour == RED).any()
    assert (result.tens == IGNORED).all()


def test_a_sign_outside_leaves_no_trace() -> None:
    for column, row in ((-3, 5), (15, 5), (5, -3), (5, 15)):
        assert (truth(placed(column, row, height=10)).colour == 0).all()


def test_signs_are_told_apart() -> None:
    result = truth(placed(3, 3, 14, number=17), placed(9, 8, 14, "green", 90))
    assert (result.colour[2:4, 2:4] == RED).all()
    assert (result.tens[2:4, 2:4] == 1).all()
    assert (result.units[2:4, 2:4] == 7).all()
    assert (result.colour[7:9, 8:10] == GREEN).all()
    assert (result.tens[7:9, 8:10] == 9).all()
    assert (result.units[7:9, 8:10] == 0).all()


def test_a_squashed_window_is_mapped_in_each_direction() -> None:
    sign = a_sign("red", 42, 200.0, 100.0, digit_height=30.0)
    result = patch_truth((sign,), Region(0, 0, 4 * SIDE, SIDE), Size(SIDE, SIDE))
    rows, columns = np.nonzero(result.colour == RED)
    assert abs(rows.mean() + 0.5 - 100 / PATCH) < 0.6
    assert abs(columns.mean() + 0.5 - 50 / PATCH) < 0.6


def test_a_picture_in_its_own_shape_has_as_many_rows_and_columns() -> None:
    sign = a_sign("red", 42, 200.0, 100.0, digit_height=30.0)
    result = patch_truth((sign,), Region(0, 0, 16 * PATCH, 9 * PATCH), Size(16 * PATCH, 9 * PATCH))
    assert result.stacked().shape == (4, 9, 16)
    assert np.argwhere(result.centre == 1).tolist() == [[100 // PATCH, 200 // PATCH]]
    assert result.tens[100 // PATCH, 200 // PATCH] == 4


def test_the_stream_is_a_function_of_its_seed() -> None:
    one, again, other = (list(islice(CloseUps(SQUASHES, seed), 3)) for seed in (3, 3, 4))
    for (pixels, labels), (same_pixels, same_labels) in zip(one, again, strict=True):
        assert torch.equal(pixels, same_pixels)
        assert torch.equal(labels, same_labels)
    assert not torch.equal(one[0][0], other[0][0])


def test_the_centre_is_one_patch_and_its_neighbours_are_not_asked_about() -> None:
    centre = truth(placed(4.5, 7.5, 20), placed(10.9, 1.5, 3, "green")).centre
    assert sorted(map(tuple, np.argwhere(centre == 1).tolist())) == [(1, 10), (7, 4)]
    assert centre[1, 11] == IGNORED
    assert centre[7, 6] == 0
    assert truth().centre.max() == 0


def test_close_ups_show_signs_with_their_digits() -> None:
    readable = several = 0
    for pixels, labels in islice(CloseUps(SQUASHES, 11), 40):
        assert pixels.shape == (3, 56, 56)
        assert pixels.dtype == torch.uint8
        assert labels.shape == (4, 4, 4)
        colours = set(labels[0].flatten().tolist()) - {0, IGNORED}
        assert 1 <= len(colours) <= 6
        several += len(colours) > 1
        for digits in labels[1:3]:
            assert ((digits == IGNORED) | (labels[0] != 0)).all()
        readable += bool((labels[1] != IGNORED).any())
    assert readable > 20
    assert several > 5


def test_patches_labelled_with_a_colour_have_it() -> None:
    """Averaged over many close-ups, a labelled patch's colour leans towards the plate's."""
    palette = np.array(list(COLOURS.values()), np.float64)
    right = total = 0
    for pixels, labels in islice(CloseUps(SQUASHES, 12), 60):
        patches = pixels.double().unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).mean((-1, -2)).numpy()
        for row, column in np.argwhere(labels[0].numpy() > 0):
            mean = patches[:, row, column]
            offsets = palette - palette.mean(1, keepdims=True)
            own = mean - mean.mean()
            likeness = offsets @ own / np.linalg.norm(offsets, axis=1)
            right += int(likeness.argmax()) + 1 == int(labels[0, row, column])
            total += 1
    assert right / total > 0.8
