"""Drawing: windows agree with the whole, signs stand where they should, files weigh what photographs do."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from benchmarks.samples import a_scene, a_sign, drawn_scene, smallest
from secondlook.benchmarks.signs.evaluation import CAMERA_QUALITY
from secondlook.benchmarks.signs.render import render, render_window
from secondlook.benchmarks.signs.scene import COLOURS, Scene, Sign
from secondlook.edge.geometry import Region, Size
from secondlook.edge.imaging import decode_jpeg, open_picture

SEED = 5
QUICK = smallest("test", SEED, range(60), 4)
Pixels = npt.NDArray[np.int16]


def whole(scene: Scene) -> Region:
    return Region(0, 0, scene.size.width, scene.size.height)


def pixels(picture: Image.Image) -> Pixels:
    return np.asarray(picture, np.int16)


def plate_colour(sign: Sign) -> npt.NDArray[np.float64]:
    return np.clip(np.array(COLOURS[sign.colour]) * sign.tint, 0, 255)


def with_sign(scene: Scene, sign: Sign) -> Scene:
    return replace(scene, signs=(sign,))


def test_a_picture_is_a_function_of_its_scene() -> None:
    scene = drawn_scene("test", SEED, QUICK[0])
    window, out = Region(10, 20, 400, 300), Size(195, 140)
    before = render_window(scene, window, out).tobytes()
    for index in range(40):  # pushes what was cached of the first scene out
        render_window(drawn_scene("train", SEED, index), Region(0, 0, 8, 8), Size(8, 8))
    assert render_window(scene, window, out).tobytes() == before
    assert render_window(replace(scene, background=scene.background + 1), window, out).tobytes() != before


@pytest.mark.parametrize("index", QUICK)
def test_the_whole_picture_has_the_scenes_size(index: int) -> None:
    scene = drawn_scene("test", SEED, index)
    picture = render(scene)
    assert picture.mode == "RGB"
    assert picture.size == (scene.size.width, scene.size.height)


@pytest.mark.parametrize("out", [Size(1, 1), Size(7, 300), Size(168, 168), Size(1500, 40)])
def test_a_window_is_drawn_at_the_size_asked_for(out: Size) -> None:
    scene = drawn_scene("test", SEED, QUICK[0])
    assert render_window(scene, Region(3, 5, 700, 600), out).size == (out.width, out.height)


@pytest.mark.parametrize("index", QUICK)
def test_a_window_drawn_alone_shows_what_the_whole_picture_shows(index: int) -> None:
    """Within 2 levels of 255, but for one pixel in a thousand on the rims of clutter."""
    scene = drawn_scene("test", SEED, index)
    picture = pixels(render(scene))
    width, height = scene.size.width, scene.size.height
    windows = [Region(100, 50, 701, 451), Region(width - 513, height - 300, width, height)]
    for window in [*windows, *(sign.box for sign in scene.signs)]:
        alone = pixels(render_window(scene, window, window.size))
        difference = np.abs(alone - picture[window.top : window.bottom, window.left : window.right])
        assert (difference > 2).mean() < 0.001
        assert difference.mean() < 0.05


@pytest.mark.parametrize("index", QUICK)
def test_a_shrunken_window_shows_what_shrinking_the_picture_does(index: int) -> None:
    """Within 6 levels on average: plates' edges are sampled, not averaged, and so is coarse grain."""
    scene = drawn_scene("test", SEED, index)
    box = (60, 90, 660, 690)
    shrunk = render(scene).crop(box).resize((200, 200), Image.Resampling.BOX)
    drawn = render_window(scene, Region(*box), Size(200, 200))
    assert np.abs(pixels(drawn) - pixels(shrunk)).mean() < 6


def test_originals_weigh_what_photographs_weigh() -> None:
    weights = []
    for index in smallest("test", SEED, range(60), 12):
        buffer = io.BytesIO()
        picture = render(drawn_scene("test", SEED, index))
        picture.save(buffer, "JPEG", quality=CAMERA_QUALITY, subsampling="4:2:0")
        weights.append(8 * buffer.tell() / (picture.width * picture.height))
    assert min(weights) > 0.5
    assert max(weights) < 6
    assert 1 < np.mean(weights) < 4


@pytest.mark.parametrize("index", QUICK)
def test_signs_have_their_colour_where_the_truth_says(index: int) -> None:
    """Above and below the digits, inside the plate's rim."""
    scene = drawn_scene("test", SEED, index)
    picture = pixels(render(scene))
    for sign in scene.signs:
        for across, down in ((0.0, -0.68), (0.0, 0.68), (-0.6, -0.68), (0.6, 0.68)):
            x, y = sign.x + across * sign.digit_height, sign.y + down * sign.digit_height
            assert np.abs(picture[int(y), int(x)] - plate_colour(sign)).max() < 40


def test_nothing_is_drawn_where_no_sign_is() -> None:
    scene = drawn_scene("test", SEED, QUICK[0])
    bare = pixels(render(replace(scene, signs=())))
    changed = np.abs(pixels(render(scene)) - bare).max(axis=-1) > 0
    for sign in scene.signs:
        reach = 1.4 * sign.digit_height  # the plate's corner, turned by any angle
        left, top = int(max(0, sign.x - reach)), int(max(0, sign.y - reach))
        changed[top : int(sign.y + reach) + 1, left : int(sign.x + reach) + 1] = False
    assert not changed.any()


@pytest.mark.parametrize(("colour", "ink"), [("red", 240), ("yellow", 15)])
@pytest.mark.parametrize("shown", [16, 40, 150, 400])
def test_digits_are_as_high_as_stated(colour: str, ink: int, shown: int) -> None:
    """Within a tenth, stroke included, and centred on the sign, at every scale they are drawn at."""
    sign = a_sign(colour, 88, digit_height=60)
    scale = shown / sign.digit_height
    out = Size(round(sign.box.width * scale), round(sign.box.height * scale))
    picture = pixels(render_window(a_scene(sign), sign.box, out))
    inked = np.abs(picture - ink).max(axis=-1) < 60
    middle = inked[round(0.12 * out.height) : round(0.88 * out.height), out.width // 4 : -out.width // 4]
    rows = np.flatnonzero(middle.any(axis=1)) + round(0.12 * out.height)
    assert rows[-1] + 1 - rows[0] == pytest.approx(shown, rel=0.1, abs=2)
    assert (rows[-1] + 1 + rows[0]) / 2 == pytest.approx(out.height / 2, abs=0.05 * shown + 1)


def test_numbers_look_different_and_the_same_number_the_same() -> None:
    def plate(number: int) -> Pixels:
        sign = a_sign("blue", number)
        return pixels(render_window(a_scene(sign), sign.box, Size(84, 68)))

    assert np.abs(plate(42) - plate(42)).max() == 0
    assert np.abs(plate(42) - plate(43)).mean() > 2
    assert np.abs(plate(42) - plate(24)).mean() > 4


def test_small_signs_keep_a_visible_colour_in_the_global_image() -> None:
    """The most vivid pixel of a small plate is nearest to its own colour nearly always, in what is sent."""
    right = total = 0
    for index in smallest("test", SEED, range(60), 24):
        scene = drawn_scene("test", SEED, index)
        small = [sign for sign in scene.signs if scene.global_digit_height(sign) < 3.6]
        if not small:
            continue
        picture = decode_jpeg(open_picture(render(scene)).global_image(168, "squash").jpeg)
        sent = np.asarray(picture, np.float64)
        for sign in small:
            across, down = 168 / scene.size.width, 168 / scene.size.height
            box = sign.box
            part = sent[
                int(box.top * down) : int(box.bottom * down) + 1,
                int(box.left * across) : int(box.right * across) + 1,
            ].reshape(-1, 3)
            vivid = part[np.ptp(part, axis=1).argmax()]
            chroma = {name: _chroma(np.array(value, np.float64)) for name, value in COLOURS.items()}
            nearest = min(chroma, key=lambda name: float(np.abs(chroma[name] - _chroma(vivid)).sum()))
            right += nearest == sign.colour
            total += 1
    assert total >= 15
    assert right / total > 0.85


def _chroma(colour: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The colour without its lightness and strength."""
    offset: npt.NDArray[np.float64] = colour - colour.mean()
    return offset / max(float(np.abs(offset).max()), 1e-9)
