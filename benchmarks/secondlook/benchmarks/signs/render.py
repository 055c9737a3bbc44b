"""Draw a scene, whole or through a window, at any scale.

The background is photograph-like so that JPEG sizes are too: 1/f noise in luminance and (weaker) in colour,
a light gradient, out-of-focus shapes, some sharp clutter, and grain. Low frequencies are a small canvas per
scene; high frequencies are one fixed tile of grain with an offset per scene. Both are functions of position
in the original, so a window drawn alone shows what the whole picture shows there, at a cost that depends on
the output's size only: that is what makes training on pictures "as the edge would send them" affordable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from secondlook.benchmarks.signs.scene import COLOURS, PLATE_HEIGHT, PLATE_WIDTH, Scene, Sign
from secondlook.edge.geometry import Region, Size

_COARSENESS: Final = 8
_TILE: Final = 1024
_MARGIN: Final = 3
_LEVELS: Final = (24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_DIGIT_SHARE: Final = 0.72
"""The height of a digit of the built-in typeface, as a share of the font's size."""
_DARK_DIGITS: Final = frozenset({"yellow", "orange"})

FloatArray = npt.NDArray[np.float32]


def render(scene: Scene) -> Image.Image:
    """The whole picture at its own size: RGB."""
    return render_window(scene, Region(0, 0, scene.size.width, scene.size.height), scene.size)


def render_window(scene: Scene, window: Region, out: Size) -> Image.Image:
    """The part of the picture inside `window` (original pixels), drawn at size `out`: RGB."""
    backdrop = _backdrop(scene.size, scene.background)
    canvas = backdrop.canvas
    scale_x, scale_y = canvas.width / scene.size.width, canvas.height / scene.size.height
    box = (window.left * scale_x, window.top * scale_y, window.right * scale_x, window.bottom * scale_y)
    picture = canvas.resize((out.width, out.height), Image.Resampling.BICUBIC, box=box)
    _draw_clutter(picture, backdrop.clutter, window)
    picture = _add_grain(picture, window, backdrop)
    for sign in scene.signs:
        _draw_sign(picture, sign, window)
    return picture


@dataclass(frozen=True)
class _Backdrop:
    """What a background key stands for: slow canvas, sharp clutter, and the grain's strength and offset."""

    canvas: Image.Image
    clutter: tuple[_Clutter, ...]
    grain_strength: float
    grain_offset: tuple[int, int]


@dataclass(frozen=True)
class _Clutter:
    """A sharp shape in a muted colour, its box in original pixels."""

    round: bool
    box: tuple[float, float, float, float]
    fill: tuple[int, int, int]


@lru_cache(maxsize=16)
def _backdrop(size: Size, key: int) -> _Backdrop:
    rng = np.random.default_rng([key, 1])
    canvas = _coarse_canvas(size, rng)
    clutter = tuple(_sample_clutter(size, rng) for _ in range(rng.integers(4, 14)))
    strength = float(rng.uniform(0.3, 1.4))
    offset_x, offset_y = (int(value) for value in rng.integers(0, _TILE, 2))
    return _Backdrop(canvas, clutter, strength, (offset_x, offset_y))


def _coarse_canvas(size: Size, rng: np.random.Generator) -> Image.Image:
    """Everything slower than `_COARSENESS` original pixels, at most 192 pixels wide: RGB."""
    width = min(192, max(24, size.width // _COARSENESS))
    height = max(16, round(width * size.height / size.width))
    light = np.zeros((height, width, 3), np.float32)
    light += rng.uniform(70, 185)
    light += rng.normal(0, 7, 3).astype(np.float32)
    slope = rng.normal(0, 35, 2)
    light += (slope[0] * np.linspace(-1, 1, width, dtype=np.float32))[None, :, None]
    light += (slope[1] * np.linspace(-1, 1, height, dtype=np.float32))[:, None, None]
    cells, strength = 3, float(rng.uniform(14, 34))
    while cells < width:
        light += strength * _noise(rng, cells, width, height)[..., None]
        if cells < 13:
            tones = np.stack([_noise(rng, cells, width, height) for _ in range(3)], axis=-1)
            light += 0.1 * strength * tones
        cells, strength = cells * 2, strength * 0.62
    canvas = Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(2, 9)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        a, b = rng.uniform(0.02, 0.16, 2) * width
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x - a, y - b, x + a, y + b), fill=_muted(rng))
    return canvas


def _noise(rng: np.random.Generator, cells: int, width: int, height: int) -> FloatArray:
    lattice = rng.standard_normal((max(2, round(cells * height / width)) + 1, cells + 1)).astype(np.float32)
    smooth = Image.fromarray(lattice).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float32)


def _muted(rng: np.random.Generator) -> tuple[int, int, int]:
    """A colour too grey to be taken for a sign's."""
    grey = rng.uniform(30, 225)
    red, green, blue = np.clip(grey + rng.normal(0, 8, 3), 0, 255).astype(int)
    return int(red), int(green), int(blue)


def _sample_clutter(size: Size, rng: np.random.Generator) -> _Clutter:
    x, y = rng.uniform(0, size.width), rng.uniform(0, size.height)
    long, short = np.exp(rng.uniform(np.log([0.01, 0.003]), np.log([0.25, 0.05]))) * size.width / 2
    half_x, half_y = (long, short) if rng.random() < 0.5 else (short, long)
    return _Clutter(bool(rng.random() < 0.3), (x - half_x, y - half_y, x + half_x, y + half_y), _muted(rng))


def _draw_clutter(picture: Image.Image, clutter: tuple[_Clutter, ...], window: Region) -> None:
    """Sharp edges: posts, panes and blobs."""
    draw = ImageDraw.Draw(picture)
    scale_x, scale_y = picture.width / window.width, picture.height / window.height
    for item in clutter:
        left, top = (item.box[0] - window.left) * scale_x, (item.box[1] - window.top) * scale_y
        right, bottom = (item.box[2] - window.left) * scale_x, (item.box[3] - window.top) * scale_y
        if right >= 0 and bottom >= 0 and left <= picture.width and top <= picture.height:
            shape = draw.ellipse if item.round else draw.rectangle
            shape((left, top, right, bottom), fill=item.fill)


@lru_cache(maxsize=1)
def _grain() -> Image.Image:
    """One periodic tile of 1024 x 1024 pixels, noise around 128 with energy from 1 to 16 pixels; two by two
    of it: L, so that any window of at most one tile is one plain crop."""
    rng = np.random.default_rng(7)
    total = np.zeros((_TILE, _TILE), np.float32)
    for spacing, strength in ((1, 2.5), (2, 3.5), (4, 5.0), (8, 6.0), (16, 7.0)):
        cells = _TILE // spacing
        lattice = np.pad(rng.standard_normal((cells, cells)).astype(np.float32), 4, mode="wrap")
        box = (4, 4, 4 + cells, 4 + cells)
        smooth = Image.fromarray(lattice).resize((_TILE, _TILE), Image.Resampling.BICUBIC, box=box)
        total += strength * np.asarray(smooth, np.float32)
    tile = np.clip(np.round(total + 128), 0, 255).astype(np.uint8)
    return Image.fromarray(np.tile(tile, (2, 2)))


def _add_grain(picture: Image.Image, window: Region, backdrop: _Backdrop) -> Image.Image:
    """Add the tile's part under the window, shrunk as the picture is; below 1/8 scale none of it is left."""
    strength, (offset_x, offset_y) = backdrop.grain_strength, backdrop.grain_offset
    if picture.width * _COARSENESS < window.width:
        return picture
    left, top = (window.left + offset_x) % _TILE, (window.top + offset_y) % _TILE
    grain: npt.NDArray[np.uint8]
    if window.width <= _TILE and window.height <= _TILE:
        box = (left, top, left + window.width, top + window.height)
        grain = np.asarray(_grain().resize(picture.size, Image.Resampling.BOX, box=box))
    else:
        whole = np.asarray(_grain())[:_TILE, :_TILE]
        rows = (np.arange(picture.height) * window.height // picture.height + top) % _TILE
        columns = (np.arange(picture.width) * window.width // picture.width + left) % _TILE
        grain = whole[rows[:, None], columns[None, :]]
        if picture.width < window.width:
            strength *= (picture.width / window.width) ** 0.5
    table = np.round((np.arange(256) - 128) * strength).astype(np.int16)
    return Image.fromarray(
        np.clip(np.asarray(picture, np.int16) + table[grain][..., None], 0, 255).astype(np.uint8)
    )


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _draw_sign(picture: Image.Image, sign: Sign, window: Region) -> None:
    """Place the plate by one affine map (scale, squash, rotation, sub-pixel shift); small ones: 4 samples."""
    scale_x, scale_y = picture.width / window.width, picture.height / window.height
    reach = sign.digit_height * 1.45
    x0 = max(0, int((sign.x - reach - window.left) * scale_x))
    y0 = max(0, int((sign.y - reach - window.top) * scale_y))
    x1 = min(picture.width, int((sign.x + reach - window.left) * scale_x) + 1)
    y1 = min(picture.height, int((sign.y + reach - window.top) * scale_y) + 1)
    if x0 >= x1 or y0 >= y1:
        return
    final = sign.digit_height * max(scale_x, scale_y)
    samples = 2 if final < 48 else 1
    level = next((level for level in _LEVELS if level >= final * samples), _LEVELS[-1])
    plate = _plate(sign.colour, sign.number, level)
    unit = level / sign.digit_height
    cosine, sine = float(np.cos(np.radians(sign.angle))), float(np.sin(np.radians(sign.angle)))
    # From a sample's place in the output to its place about the sign's centre, then turned into the plate.
    step_x, step_y = unit / (scale_x * samples), unit / (scale_y * samples)
    start_x = unit * (window.left + x0 / scale_x - sign.x)
    start_y = unit * (window.top + y0 / scale_y - sign.y)
    affine = (
        cosine * step_x,
        -sine * step_y,
        cosine * start_x - sine * start_y + plate.width / 2,
        sine * step_x,
        cosine * step_y,
        sine * start_x + cosine * start_y + plate.height / 2,
    )
    size = ((x1 - x0) * samples, (y1 - y0) * samples)
    drawn = plate.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    if samples > 1:
        drawn = drawn.reduce(samples)
    alpha = drawn.getchannel("A")
    red, green, blue = sign.tint
    tinted = drawn.convert("RGB").convert("RGB", (red, 0, 0, 0, 0, green, 0, 0, 0, 0, blue, 0))
    picture.paste(tinted, (x0, y0), alpha)


def _plate(colour: str, number: int, digit_height: int) -> Image.Image:
    """The upright plate; only small ones are worth the memory of keeping them."""
    draw = _small_plate if digit_height <= 64 else _draw_plate
    return draw(colour, number, digit_height)


def _draw_plate(colour: str, number: int, digit_height: int) -> Image.Image:
    """Draw a plate of about [1.7 d, 2.1 d] pixels for digits of height d, in a transparent margin: RGBA."""
    width, height = round(PLATE_WIDTH * digit_height), round(PLATE_HEIGHT * digit_height)
    fill = COLOURS[colour]
    ink = (15, 15, 15) if colour in _DARK_DIGITS else (240, 240, 240)
    plate = Image.new("RGBA", (width + 2 * _MARGIN, height + 2 * _MARGIN), (*fill, 0))
    draw = ImageDraw.Draw(plate)
    box = (_MARGIN, _MARGIN, _MARGIN + width - 1, _MARGIN + height - 1)
    draw.rounded_rectangle(box, digit_height // 4, (*fill, 255), (*ink, 255), max(1, digit_height // 16))
    draw.text(
        (plate.width / 2, plate.height / 2),
        str(number),
        font=_font(round(digit_height / _DIGIT_SHARE)),
        fill=(*ink, 255),
        anchor="mm",
        stroke_width=max(1, digit_height // 22),
        stroke_fill=(*ink, 255),
    )
    return plate


_small_plate = lru_cache(maxsize=2048)(_draw_plate)
