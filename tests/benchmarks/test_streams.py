"""Drawn streams: what they depend on, where the asked sign is, and how frames are drawn."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from secondlook.benchmarks.signs.scene import COLOURS, REFERENCE_SIDE, Split
from secondlook.benchmarks.streams.scenes import (
    FPS,
    SCENE,
    SECONDS,
    SENSOR,
    DrawnStream,
    sample_stream,
    to_sensor,
)
from secondlook.edge.errors import GeometryError
from secondlook.edge.geometry import Region, Size
from secondlook.edge.imaging import Picture, decode_jpeg, open_picture
from secondlook.edge.wire import Fixed, View

VIEW = View(size=Fixed(width=REFERENCE_SIDE, height=REFERENCE_SIDE))


@pytest.fixture(scope="module")
def streams() -> list[DrawnStream]:
    return [sample_stream("test", 5, index) for index in range(30)]


@pytest.mark.parametrize("split", ["train", "calibration", "test"])
def test_a_stream_is_a_function_of_split_seed_and_index(split: Split) -> None:
    stream = sample_stream(split, 3, 8)
    assert sample_stream.__wrapped__(split, 3, 8) == stream
    others = [sample_stream(split, 3, 9), sample_stream(split, 4, 8)]
    others += [sample_stream(other, 3, 8) for other in ("train", "calibration", "test") if other != split]
    assert all(stream.scene != other.scene and stream.moments != other.moments for other in others)


def test_a_stream_lasts_twenty_seconds_at_five_frames_a_second(streams: list[DrawnStream]) -> None:
    for stream in streams:
        assert [moment.time for moment in stream.moments] == [n / FPS for n in range(int(SECONDS * FPS))]
        assert 4 <= len(stream.scene.signs) <= 6
        colours = {sign.colour for sign in stream.scene.signs}
        assert len(colours) == len(stream.scene.signs)
        assert colours <= set(COLOURS)
        assert stream.sign.colour in stream.question
        assert all(moment.window.within(SCENE) for moment in stream.moments)


def test_signs_leave_are_hidden_change_and_are_of_every_size(streams: list[DrawnStream]) -> None:
    moments = [moment for stream in streams for moment in stream.moments]
    outside = [not moment.visible and not moment.hidden for moment in moments]
    assert 0.08 < np.mean(outside) < 0.25
    assert 0.06 < np.mean([moment.hidden for moment in moments]) < 0.2
    heights = [moment.digit_height for moment in moments]
    assert np.mean(np.less(heights, 6)) > 0.2
    assert np.mean(np.greater(heights, 9)) > 0.25
    changes = sum(one != other for stream in streams for one, other in pairwise(stream.truths))
    assert 0.7 < changes / (len(streams) * SECONDS / 8) < 1.3


def test_the_box_moves_as_the_windows_say(streams: list[DrawnStream]) -> None:
    """Known motion brings a box from one frame to another: through the scene, whose signs stand still."""
    for stream in streams:
        plate = stream.sign.plate
        for moment in stream.moments:
            window, box = moment.window, moment.box
            corners = to_sensor(window, plate.left, plate.top), to_sensor(window, plate.right, plate.bottom)
            assert np.allclose(box, [*corners[0], *corners[1]])
            x = window.left + (box.left + box.right) / 2 * window.width / SENSOR.width
            y = window.top + (box.top + box.bottom) / 2 * window.height / SENSOR.height
            assert (x, y) == pytest.approx((stream.sign.x, stream.sign.y))


def test_the_asked_sign_is_drawn_in_its_box_unless_it_is_hidden(streams: list[DrawnStream]) -> None:
    shown = {False: 0, True: 0}
    for stream in streams[:12]:
        for index in range(0, 100, 10):
            moment = stream.moments[index]
            if not _inside(moment.box):
                continue
            box = Region(*map(round, moment.box))
            pixels = np.asarray(stream.frame(index).drawn(Size(40, 30), box), np.int16)
            plate = np.asarray(COLOURS[stream.sign.colour])
            likeness = np.mean(np.abs(pixels - plate).max(axis=-1) < 60)
            assert likeness < 0.2 if moment.hidden else likeness > 0.35, (stream.sign, index)
            shown[moment.hidden] += 1
    assert min(shown.values()) > 4


def _inside(box: tuple[float, float, float, float]) -> bool:
    left, top, right, bottom = box
    return left >= 0 and top >= 0 and right < SENSOR.width and bottom < SENSOR.height


def test_a_frame_is_a_picture_for_an_edge() -> None:
    """It gives what an edge would make of the whole frame, but for grain."""
    frame = sample_stream("test", 5, 2).frame(30)
    assert isinstance(frame, Picture)
    assert frame.size == SENSOR
    assert str(SENSOR) in repr(frame)
    whole, region = open_picture(frame.original()), Region(700, 500, 1300, 1000)
    for ours, theirs in (
        (frame.global_image(VIEW), whole.global_image(VIEW)),
        (frame.local_image(region, VIEW), whole.local_image(region, VIEW)),
    ):
        assert ours.size == theirs.size
        assert 0.6 < len(ours.jpeg) / len(theirs.jpeg) < 1.2
        one, other = (np.asarray(decode_jpeg(each.jpeg), np.float32) for each in (ours, theirs))
        assert np.abs(one - other).mean() < 8
    with pytest.raises(GeometryError, match="outside"):
        frame.local_image(Region(0, 0, SENSOR.width + 1, 10), VIEW)


def test_frames_have_photographs_sizes() -> None:
    frames = [sample_stream("test", 5, index).frame(50) for index in range(6)]
    sizes = [len(frame.jpeg()) / SENSOR.pixels for frame in frames]
    assert 0.1 < np.mean(sizes) < 0.4  # bytes a pixel, as of the pictures of signs


def test_a_change_of_number_is_drawn() -> None:
    stream = sample_stream("test", 5, 2)
    drawn = [stream.frame(index).drawn(Size(96, 72)) for index in range(0, 100, 33)]
    assert len({image.tobytes() for image in drawn}) == len(drawn)
    assert all(isinstance(image, Image.Image) and image.size == (96, 72) for image in drawn)
    again = sample_stream.__wrapped__("test", 5, 2).frame(33).drawn(Size(96, 72))
    assert again.tobytes() == drawn[1].tobytes()
