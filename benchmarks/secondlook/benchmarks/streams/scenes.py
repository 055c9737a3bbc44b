"""Drawn streams: a camera pans and zooms over a *signs* scene larger than its frame.

A stream is a pure function of (split, seed, index): four to six signs, the one asked about, and the camera's
path from waypoint to waypoint around it, some of which leave it outside. Signs change their number, and a
grey pane hides the asked one, for a while each time. The truth is what the asked sign says at the moment of
the frame, seen or not. What moves is the camera alone, and its windows say how.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from secondlook.benchmarks.signs.evaluation import CAMERA_QUALITY
from secondlook.benchmarks.signs.questions import WORDINGS
from secondlook.benchmarks.signs.render import render_window
from secondlook.benchmarks.signs.scene import (
    COLOURS,
    PLATE_HEIGHT,
    PLATE_WIDTH,
    REFERENCE_SIDE,
    Scene,
    Sign,
    Split,
    overlap,
    scene_generator,
)
from secondlook.edge.errors import GeometryError
from secondlook.edge.geometry import Rectangle, Region, Size, sent_size
from secondlook.edge.imaging import JpegSettings, Picture, encode_jpeg
from secondlook.edge.wire import View

SCENE: Final = Size(4000, 3000)
"""What the camera may see of the world, in scene pixels."""

SENSOR: Final = Size(2400, 1800)
"""Pixels of every frame, however wide the camera's window is."""

FPS: Final = 5
SECONDS: Final = 20.0

_FIRST_INDEX: Final = 3_000_000_000
"""Above every index of a picture: no stream shares a generator with one of *signs*."""

_DIGITS: Final = (45.0, 110.0)
"""Heights of digits in scene pixels."""

_WINDOWS: Final = (700.0, 4000.0)
"""Widths of windows at waypoints, in scene pixels."""

_LEGS: Final = (1.2, 3.0)
"""Seconds from one waypoint to the next."""

_NEAR: Final = 0.75
"""Share of waypoints whose window holds the asked sign's centre."""

_CHANGE: Final = 8.0
"""Seconds, on average, from one change of a sign's number to the next."""

_HIDE: Final = 8.0
"""Seconds, on average, from one pane to the next."""

_HIDDEN: Final = (0.5, 1.5)
"""Seconds that a pane stays."""

_PANE: Final = 1.32
"""A pane's width and height, in those of the plate that it hides."""

_DRAWN: Final = 2
"""Pictures are drawn so many times larger than they are sent, in each direction, then shrunk as an edge
shrinks the frame, whose own drawing takes fifteen times as long. The grain of so large a frame would leave
the global image's JPEG about a fifth larger."""

_FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moment:
    """What is true when a frame is captured.

    Attributes:
        time: seconds since the first frame.
        window: what the camera sees, in scene pixels.
        numbers: of each of the scene's signs.
        hidden: whether a pane is before the asked sign.
        visible: whether the asked sign is in the window, all of its digits, and not hidden.
        digit_height: of the asked sign, in pixels of a global image of `REFERENCE_SIDE` squared.
        box: the asked sign's plate in sensor pixels; it may reach outside.
    """

    time: float
    window: Region
    numbers: tuple[int, ...]
    hidden: bool
    visible: bool
    digit_height: float
    box: Rectangle


@dataclass(frozen=True)
class DrawnStream:
    """One stream.

    Attributes:
        scene: with the signs' first numbers.
        asked: which of its signs is asked about.
        moments: one a frame.
    """

    scene: Scene
    asked: int
    moments: tuple[Moment, ...]

    @property
    def sign(self) -> Sign:
        """The asked one."""
        return self.scene.signs[self.asked]

    @property
    def question(self) -> str:
        return WORDINGS["read"][0].format(colour=self.sign.colour)

    @property
    def truths(self) -> tuple[str, ...]:
        """The right answer at each frame."""
        return tuple(str(moment.numbers[self.asked]) for moment in self.moments)

    def frame(self, index: int) -> DrawnFrame:
        return DrawnFrame(self, index)


@lru_cache(maxsize=64)
def sample_stream(split: Split, seed: int, index: int, seconds: float = SECONDS) -> DrawnStream:
    """The stream of this index; a shorter one is not the beginning of a longer one's."""
    rng = scene_generator(split, seed, _FIRST_INDEX + index)
    scene = _sample_scene(rng)
    asked = int(rng.integers(len(scene.signs)))
    path = _sample_path(rng, scene.signs[asked], seconds)
    numbers = [sign.number for sign in scene.signs]
    hidden_until = -1.0
    moments = []
    for frame in range(round(seconds * FPS)):
        time = frame / FPS
        if frame:
            for place in range(len(numbers)):
                if rng.random() < 1 / (_CHANGE * FPS):
                    numbers[place] = int(rng.integers(10, 100))
            if hidden_until < time and rng.random() < 1 / (_HIDE * FPS):
                hidden_until = time + float(rng.uniform(*_HIDDEN))
        moments.append(
            _moment(time, path.window(time), tuple(numbers), scene.signs[asked], time < hidden_until)
        )
    return DrawnStream(scene, asked, tuple(moments))


def _sample_scene(rng: np.random.Generator) -> Scene:
    signs = list[Sign]()
    low, high = _DIGITS
    for colour in rng.permutation(list(COLOURS))[: int(rng.integers(4, 7))]:
        for _ in range(60):
            height = float(low * (high / low) ** rng.random())
            number = int(rng.integers(10, 100))
            x, y = float(rng.uniform(450, 3550)), float(rng.uniform(400, 2600))
            angle = float(rng.normal(0, 3))
            red, green, blue = (float(value) for value in rng.normal(1, 0.05, 3))
            sign = Sign(str(colour), number, x, y, height, angle, (red, green, blue))
            if not any(overlap(sign, other) for other in signs):
                signs.append(sign)
                break
    signs.sort(key=lambda sign: sign.x)
    return Scene(SCENE, tuple(signs), int(rng.integers(2**31)))


@dataclass(frozen=True)
class _Path:
    """The camera's way.

    Attributes:
        times: [waypoints], in seconds; the last is past the stream's end.
        points: [waypoints, 3], ln of the window's width, and its centre in scene pixels.
    """

    times: _FloatArray
    points: _FloatArray

    def window(self, time: float) -> Region:
        """In whole scene pixels, moved into the scene. Between waypoints speed rises and falls as a sine."""
        leg = int(np.searchsorted(self.times, time, "right")) - 1
        begin, end = self.times[leg], self.times[leg + 1]
        gone = (1 - np.cos(np.pi * (time - begin) / (end - begin))) / 2
        log_width, x, y = self.points[leg] * (1 - gone) + self.points[leg + 1] * gone
        width = float(np.exp(log_width))
        height = width * SENSOR.height / SENSOR.width
        left = float(np.clip(x - width / 2, 0, SCENE.width - width))
        top = float(np.clip(y - height / 2, 0, SCENE.height - height))
        return Region(int(left), int(top), int(left + width), int(top + height))


def _sample_path(rng: np.random.Generator, sign: Sign, seconds: float) -> _Path:
    times, points = [0.0], [_waypoint(rng, sign, near=1.0)]
    while times[-1] < seconds:
        times.append(times[-1] + float(rng.uniform(*_LEGS)))
        points.append(_waypoint(rng, sign, near=_NEAR))
    return _Path(np.array(times), np.array(points))


def _waypoint(rng: np.random.Generator, sign: Sign, near: float) -> _FloatArray:
    """See `_Path.points`; with probability `near` it holds the sign's centre."""
    narrow, wide = _WINDOWS
    width = narrow * (wide / narrow) ** rng.random()
    height = width * SENSOR.height / SENSOR.width
    if near == 1 or rng.random() < near:
        x, y = rng.uniform(-0.38, 0.38, 2)
    else:
        x, y = rng.choice([-1, 1]) * rng.uniform(0.6, 0.9), rng.uniform(-0.5, 0.5)
        if rng.random() < 0.5:
            x, y = y, x
    return np.array([np.log(width), sign.x + x * width, sign.y + y * height])


def _moment(time: float, window: Region, numbers: tuple[int, ...], sign: Sign, hidden: bool) -> Moment:
    # Two digits are about 0.8 of a plate wide, and 0.7 of it high with their surroundings.
    across, down = sign.digit_height * PLATE_WIDTH * 0.4, sign.digit_height * PLATE_HEIGHT * 0.35
    inside = (
        window.left + across <= sign.x <= window.right - across
        and window.top + down <= sign.y <= window.bottom - down
    )
    height = sign.digit_height * REFERENCE_SIDE / float(np.sqrt(window.width * window.height))
    plate = sign.plate
    left, top = to_sensor(window, plate.left, plate.top)
    right, bottom = to_sensor(window, plate.right, plate.bottom)
    box = Rectangle(left, top, right, bottom)
    return Moment(time, window, numbers, hidden, inside and not hidden, height, box)


def to_sensor(window: Region, x: float, y: float) -> tuple[float, float]:
    """Scene pixels to sensor pixels of the frame with this window."""
    return (
        (x - window.left) * SENSOR.width / window.width,
        (y - window.top) * SENSOR.height / window.height,
    )


class DrawnFrame(Picture):
    """One frame, as an edge has a picture: what is asked of it is drawn then, and no more than that.

    Attributes:
        moment: what is true of it.
    """

    def __init__(self, stream: DrawnStream, index: int) -> None:
        self.size = SENSOR  # the base's source is never needed: all that reads it is below
        self._name = f"frame {index}"
        self._stream = stream
        self.moment = stream.moments[index]

    def drawn(self, size: Size, region: Region | None = None) -> Image.Image:
        """A region (sensor pixels), or all of it, drawn at a size: RGB."""
        window, stream = self._window(region), self._stream
        numbers = zip(stream.scene.signs, self.moment.numbers, strict=True)
        signs = tuple(replace(sign, number=number) for sign, number in numbers)
        picture = render_window(replace(stream.scene, signs=signs), window, size)
        if self.moment.hidden:
            self._draw_pane(picture, window)
        return picture

    @property
    def held_bytes(self) -> int:
        """Nothing: it is drawn when it is needed."""
        return 0

    def original(self) -> Image.Image:
        return self.drawn(SENSOR)

    def jpeg(self, quality: int = CAMERA_QUALITY) -> bytes:
        """The whole frame as a camera would compress it."""
        return encode_jpeg(self.original(), JpegSettings(quality, "4:2:0")).jpeg

    def shrunk(self, view: View, shown: Size | None = None) -> Image.Image:
        return self._sent(sent_size(view, SENSOR if shown is None else shown), view, None)

    def closer(self, region: Region, view: View) -> Image.Image:
        if not region.within(SENSOR):
            raise GeometryError(f"region {region} reaches outside the picture of {SENSOR} pixels")
        return self._sent(sent_size(view, region.size), view, region)

    def _sent(self, size: Size, view: View, region: Region | None) -> Image.Image:
        of = SENSOR if region is None else region.size
        larger = Size(min(of.width, _DRAWN * size.width), min(of.height, _DRAWN * size.height))
        drawn = self.drawn(larger, region)
        return drawn.resize((size.width, size.height), Image.Resampling[view.filter.upper()])

    def _window(self, region: Region | None) -> Region:
        """Of a region of the sensor, at least two scene pixels wide and high."""
        whole = self.moment.window
        if region is None:
            return whole
        across, down = whole.width / SENSOR.width, whole.height / SENSOR.height
        left, top = int(whole.left + region.left * across), int(whole.top + region.top * down)
        right, bottom = int(whole.left + region.right * across), int(whole.top + region.bottom * down)
        return Region(left, top, max(left + 2, right), max(top + 2, bottom))

    def _draw_pane(self, picture: Image.Image, window: Region) -> None:
        sign = self._stream.sign
        across, down = picture.width / window.width, picture.height / window.height
        x, y = (sign.x - window.left) * across, (sign.y - window.top) * down
        half_x = sign.digit_height * PLATE_WIDTH * _PANE / 2 * across
        half_y = sign.digit_height * PLATE_HEIGHT * _PANE / 2 * down
        grey = self._stream.scene.background % 90 + 80
        box = (x - half_x, y - half_y, x + half_x, y + half_y)
        ImageDraw.Draw(picture).rectangle(box, fill=(grey, grey, grey))
