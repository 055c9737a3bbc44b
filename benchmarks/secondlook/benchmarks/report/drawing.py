"""A picture of one question's two looks: heat map and box on the original, and what the second look saw."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from secondlook.edge.answer import EdgeAnswer
from secondlook.edge.geometry import Region, Size, target
from secondlook.edge.imaging import Picture
from secondlook.edge.wire import Relevance, View
from secondlook.engine.method.grid import GridMap

_PANEL = 480
_GAP = 12
_CAPTION = 62
_INK = (30, 30, 30)
_PAPER = (255, 255, 255)
_BOX = (255, 60, 30)


def draw_looks(
    picture: Picture, answer: EdgeAnswer, view: View, captions: tuple[str, str, str]
) -> Image.Image:
    """Three panels: the global image as sent, the original with heat map and box, the local image as sent.

    Without a second look the original stays plain and the third panel is empty. Captions stand below the
    panels, a line feed in each at most.
    """
    sheet = Image.new("RGB", (3 * _PANEL + 4 * _GAP, _PANEL + _CAPTION + 2 * _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    sent, local = picture.global_image(view), answer.local_image
    panels = (
        Image.open(io.BytesIO(sent.jpeg)),
        marked_original(picture, answer.relevance, answer.region, view),
        None if local is None else Image.open(io.BytesIO(local.jpeg)),
    )
    font = ImageFont.load_default(18)
    for number, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        left = _GAP + number * (_PANEL + _GAP)
        if panel is not None:
            shown = panel.convert("RGB")
            if number != 1:  # as sent, enlarged without smoothing away how coarse it is
                factor = _PANEL / max(shown.size)
                size = (round(shown.width * factor), round(shown.height * factor))
                shown = shown.resize(size, Image.Resampling.NEAREST)
            sheet.paste(shown, (left, _GAP + (_PANEL - shown.height) // 2))
        draw.multiline_text((left, _PANEL + 2 * _GAP), caption, fill=_INK, font=font, spacing=6)
    return sheet


def marked_original(
    picture: Picture, relevance: Relevance | None, region: Region | None, view: View
) -> Image.Image:
    """The original, at most 480 pixels a side, under its heat map and with the region's box."""
    original = picture.original().copy()
    original.thumbnail((_PANEL, _PANEL), Image.Resampling.LANCZOS)
    if relevance is not None:
        original = heat_overlay(original, relevance, picture.size, view)
    if region is not None:
        scale = original.width / picture.size.width
        box = [round(value * scale) for value in region.as_tuple()]
        ImageDraw.Draw(original).rectangle(box, outline=_BOX, width=3)
    return original


def heat_overlay(shown: Image.Image, relevance: Relevance, original: Size, view: View) -> Image.Image:
    """`shown`, the original at any scale, under relative attention: dark is low, red high."""
    strength = np.sqrt(np.array(relevance.rows(), np.float32) / 255)
    grid = GridMap(original, target(view, original), view.fit, relevance.height, relevance.width)
    left, top = (float(value) for value in grid.to_grid(0, 0))
    right, bottom = (float(value) for value in grid.to_grid(original.width, original.height))
    heat = Image.fromarray(strength)
    heat = heat.resize(shown.size, Image.Resampling.BICUBIC, box=(left, top, right, bottom))
    weight = np.clip(np.asarray(heat), 0, 1)[..., None]
    base = np.asarray(shown, np.float32)
    warm = 0.55 * base + 0.45 * np.array([255.0, 70.0, 0.0], np.float32)
    mixed = (1 - weight) * 0.55 * base + weight * warm
    return Image.fromarray(mixed.astype(np.uint8))
