"""What a checkpoint may say of itself beside its weights: how it looks twice, and where it looks.

`secondlook.json` has the threshold and the like, `localisation.json` which attention is read and how a
region is found from it. What a file leaves out is the default of the checkpoint's architecture; what is
unknown in it is refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from secondlook.edge.errors import SettingsError
from secondlook.edge.validation import from_json, validated
from secondlook.edge.wire import Fit
from secondlook.engine.context import check_template
from secondlook.engine.errors import InvalidModelError
from secondlook.engine.method.region import Ratios, RegionSettings, Rule, Share

__all__ = [
    "LOCALISATION_FILE",
    "SETTINGS_FILE",
    "Layers",
    "Localisation",
    "LookSettings",
    "Sink",
    "read_file",
]

SETTINGS_FILE = "secondlook.json"
LOCALISATION_FILE = "localisation.json"

Index: TypeAlias = Annotated[int, Field(ge=0, strict=False)]  # JSON's keys are strings
Heads: TypeAlias = Annotated[
    dict[Index, Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=1)
]
Layers: TypeAlias = Annotated[dict[Index, Heads | None], Field(min_length=1)]

FileT = TypeVar("FileT", "LookSettings", "Localisation")


@validated(frozen=True)
class LookSettings:
    """How one checkpoint looks twice.

    Attributes:
        threshold: uncertainty threshold η, mean min-entropy in nats; None: nobody calibrated one.
        fit: how pictures are fitted to what the model takes, where its architecture leaves that open.
        max_new_tokens: longest answer, end token included.
        question_suffix: put behind every question, after a space.
        context: how an earlier frame's answer is put behind the question, for a checkpoint that has learnt to
            read that, such as "{question} ({age:.1f} s ago: {answer})"; see `secondlook.engine.context`.
    """

    threshold: NonNegativeFloat | None = None
    fit: Fit = "squash"
    max_new_tokens: PositiveInt = 20
    question_suffix: Annotated[str, Field(max_length=2000)] = ""
    context: Annotated[str, Field(max_length=2000)] | None = None

    def __post_init__(self) -> None:
        if self.context is not None:
            check_template(self.context)

    @property
    def default_threshold(self) -> float:
        """What is taken where a request and the server leave it open: a plain starting point, if it is not
        calibrated."""
        return 0.5 if self.threshold is None else self.threshold


@validated(frozen=True)
class Sink:
    """Where attention gathers whatever is asked: such cells are left out of the map.

    Attributes:
        layers: as in `Localisation`.
        threshold: cells whose attention there is at least this are left out; all of them: none is.
    """

    layers: Layers
    threshold: Annotated[float, Field(gt=0, allow_inf_nan=False)]


@validated(frozen=True)
class Localisation:
    """Which attention is read, of which rows, and how a region is found from it.

    Attributes:
        layers: of the decoder, 0-based. Of each the heads, 0-based too, with their positive weights, or None:
            the mean of all. What is read is the sum over all of them.
        generic: whether the map is divided by that of a generic question (Zhang et al., arXiv 2502.17422).
        generated_rows: 0: the prompt's last row is read. Otherwise the mean over the rows of so many of the
            answer's first tokens, as far as these are known when a region is sought; the end token, which
            looks at nothing more, is not among them unless it is the only one.
        sink: which cells are left out, if any; read in the same rows.
        crop_size, ratios, min_cells, rule, share: see `secondlook.engine.method.region.RegionSettings`.
    """

    layers: Layers
    crop_size: int
    generic: bool = True
    ratios: Ratios = RegionSettings.ratios
    min_cells: int = 1
    rule: Rule = "squares"
    share: Share = RegionSettings.share
    generated_rows: NonNegativeInt = 0
    sink: Sink | None = None

    def __post_init__(self) -> None:
        _ = self.region  # has rules of its own

    @property
    def deepest(self) -> int:
        """The last layer that is read; no pass for attention alone goes beyond it."""
        return max([*self.layers, *([] if self.sink is None else self.sink.layers)])

    @property
    def region(self) -> RegionSettings:
        return RegionSettings(self.crop_size, self.ratios, self.min_cells, self.rule, self.share)

    def to_json(self) -> dict[str, Any]:
        """As a file has it, with every key."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found


def read_file(path: Path, defaults: FileT) -> FileT:
    """`defaults`, overridden by what a file says, if it is there.

    Raises:
        InvalidModelError: it is not a JSON object, has unknown keys, or a value out of range.
    """
    if not path.exists():
        return defaults
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise InvalidModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidModelError(f"{path} must hold a JSON object, not {type(values).__name__}")
    try:
        return from_json(type(defaults), json.dumps(asdict(defaults) | values))
    except SettingsError as error:
        raise InvalidModelError(f"{path}: {error!s:.400}") from error
