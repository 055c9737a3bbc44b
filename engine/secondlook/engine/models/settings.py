"""A checkpoint's own two-look settings, the file `secondlook.json` in its folder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import get_args

from secondlook.edge.errors import SettingsError
from secondlook.edge.wire import ResizeMode
from secondlook.engine.errors import InvalidModelError

__all__ = ["SETTINGS_FILE", "LookSettings", "read_settings"]

SETTINGS_FILE = "secondlook.json"


@dataclass(frozen=True)
class LookSettings:
    """How one checkpoint looks twice.

    Attributes:
        probe_layer: 0-based decoder layer whose attention is read.
        crop_size: side of the smallest region tried, in original pixels.
        min_cells: fewest attention cells across a region; see RegionSettings.
        threshold: default uncertainty threshold η, mean min-entropy in nats.
        resize_mode: how global and local images are fitted to the encoder's square.
        max_new_tokens: longest answer, end token included.
        question_suffix: put behind every question, after a space.
    """

    probe_layer: int
    crop_size: int
    min_cells: int = 1
    threshold: float = 0.5
    resize_mode: ResizeMode = "squash"
    max_new_tokens: int = 20
    question_suffix: str = ""

    def __post_init__(self) -> None:
        for name, least in (("probe_layer", 0), ("crop_size", 1), ("min_cells", 1), ("max_new_tokens", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SettingsError(f"{name} must be a whole number of at least {least}, not {value!r}")
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if not (number and math.isfinite(self.threshold) and self.threshold >= 0):
            raise SettingsError(f"threshold must be a finite number of at least 0, not {self.threshold!r}")
        if self.resize_mode not in get_args(ResizeMode):
            choices = ", ".join(get_args(ResizeMode))
            raise SettingsError(f"resize_mode must be one of {choices}, not {self.resize_mode!r}")
        if not isinstance(self.question_suffix, str):
            raise SettingsError(f"question_suffix must be text, not {self.question_suffix!r}")

    @classmethod
    def default_for(cls, *, layers: int, image_size: int) -> LookSettings:
        """What LLaVA-1.5-7B uses in Zhang et al., arXiv 2502.17422: layer 14 of 32, crops of the encoder's
        side.

        Other depths read the same relative depth. The threshold, 0.5 nats, is a plain starting point:
        calibrate it on your own pictures.
        """
        return cls(probe_layer=layers * 14 // 32, crop_size=image_size)


def read_settings(folder: Path, defaults: LookSettings) -> LookSettings:
    """`defaults`, overridden by what the folder's secondlook.json says, if it has one.

    Raises:
        InvalidModelError: the file is not a JSON object, has unknown keys, or a value out of range.
    """
    path = folder / SETTINGS_FILE
    if not path.exists():
        return defaults
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidModelError(f"{path} must hold a JSON object, not {type(values).__name__}")
    known = [field.name for field in fields(LookSettings)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InvalidModelError(f"{path} has unknown keys {', '.join(unknown)}; known are {', '.join(known)}")
    try:
        return replace(defaults, **values)
    except SettingsError as error:
        raise InvalidModelError(f"{path}: {error}") from error
