"""Where published models look, by name; and what `--profile` says.

Heads and sinks of the public code of SD-RPN (arXiv 2509.16944) and Q-Zoom (arXiv 2604.06912): published, not
tried here on real weights. Their recipe: the mean of the heads over the rows of the generated tokens, without
sinks, and the box around what stands out.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from secondlook.edge.errors import SettingsError
from secondlook.engine.errors import InvalidModelError
from secondlook.engine.models.settings import Localisation, Sink, read_file

__all__ = ["PUBLISHED", "Published", "check_localisation", "chosen_profile"]

_Heads: TypeAlias = Mapping[int, tuple[int, ...] | None]


@dataclass(frozen=True)
class Published:
    """One kind of questions to one model.

    Attributes:
        model_type, shape: which model: the latter are the layers, heads and width of its decoder.
        heads: of each layer, all of weight 1: their sum, for a map's scale does not matter.
        sinks: one layer and its heads, of which the mean counts; None is all of them.
        threshold: of the sinks' mean.
    """

    model_type: str
    shape: tuple[int, int, int]
    heads: Mapping[int, tuple[int, ...]]
    sinks: _Heads
    threshold: float

    @property
    def layers(self) -> dict[int, dict[int, float] | None]:
        return {layer: dict.fromkeys(some, 1.0) for layer, some in self.heads.items()}

    @property
    def sink(self) -> Sink:
        ((layer, some),) = self.sinks.items()
        return Sink({layer: None if some is None else dict.fromkeys(some, 1 / len(some))}, self.threshold)


_LLAVA_7B, _LLAVA_13B = ("llava", (32, 32, 4096)), ("llava", (40, 40, 5120))
_QWEN25_3B, _QWEN25_7B = ("qwen2_5_vl", (36, 16, 2048)), ("qwen2_5_vl", (28, 28, 3584))
_QWEN3_4B, _QWEN3_8B = ("qwen3_vl", (36, 32, 2560)), ("qwen3_vl", (36, 32, 4096))
_OBJECTS_3: Final = {20: (15, 21, 23), 21: (8, 10, 11)}

PUBLISHED: Final[Mapping[str, Published]] = {
    "llava-1.5-7b": Published(*_LLAVA_7B, {14: (13, 24, 26)}, {2: None}, 1e-3),
    "llava-1.5-13b": Published(
        *_LLAVA_13B, {13: (21, 23, 26), 15: (2,), 16: (2, 21, 30)}, {16: (17, 22)}, 1e-3
    ),
    "qwen2.5-vl-3b-text": Published(*_QWEN25_3B, {20: (1, 4), 22: (14,)}, {8: (1, 13)}, 1e-2),
    "qwen2.5-vl-3b-objects": Published(*_QWEN25_3B, {21: (9, 11), 22: (0, 7)}, {8: (1, 13)}, 1e-2),
    "qwen2.5-vl-7b-text": Published(*_QWEN25_7B, {22: (1, 4), 23: (6, 11)}, {9: (4, 22)}, 1e-2),
    "qwen2.5-vl-7b-objects": Published(*_QWEN25_7B, {16: (1, 7, 17), 19: (17, 20)}, {9: (4, 22)}, 1e-2),
    "qwen3-vl-4b-text": Published(*_QWEN3_4B, {19: (24, 27), 24: (21, 23)}, {24: (6, 10)}, 1e-2),
    "qwen3-vl-4b-objects": Published(*_QWEN3_4B, _OBJECTS_3, {20: (1, 24)}, 1e-2),
    "qwen3-vl-8b-text": Published(*_QWEN3_8B, {19: (24, 26, 27), 24: (21, 22, 23)}, {24: (1, 2)}, 1e-2),
    "qwen3-vl-8b-objects": Published(*_QWEN3_8B, _OBJECTS_3, {21: (7,)}, 1e-2),
}

_GENERATED_ROWS: Final = 20
"""The longest answer: all of it, as far as it is known by then."""


def chosen_profile(
    profile: str, default: Localisation, model_type: str, shape: tuple[int, int, int]
) -> Localisation:
    """What `--profile` means for a model.

    Args:
        profile: a published one's name, or a file in the layout of `localisation.json`.
        default: the model's own; what a profile leaves out.
        shape: layers, heads and width of the model's decoder.

    Raises:
        SettingsError: there is no such profile, or it is another model's.
        InvalidModelError: see `read_file`.
    """
    known = PUBLISHED.get(profile)
    if known is None:
        with suppress(OSError):  # of what can be no file's name
            if Path(profile).is_file():
                return read_file(Path(profile), default)
        raise SettingsError(
            f"--profile {profile}: no such file, and published profiles are {', '.join(PUBLISHED)}"
        )
    if (known.model_type, known.shape) != (model_type, shape):
        texts = [
            f"{kind} with {layers} layers, {heads} heads and width {width}"
            for kind, (layers, heads, width) in ((known.model_type, known.shape), (model_type, shape))
        ]
        raise SettingsError(f"--profile {profile} is for {texts[0]}, but this model is {texts[1]}")
    return replace(
        default,
        layers=known.layers,
        sink=known.sink,
        generic=False,
        generated_rows=_GENERATED_ROWS,
        rule="box",
    )


def check_localisation(path: Path, looks: Localisation, shape: tuple[int, int, int]) -> None:
    """Refuse layers and heads that the decoder does not have.

    Args:
        path: named in the error.
        shape: layers, heads and width of the decoder.

    Raises:
        InvalidModelError: there is no such layer, or no such head in one.
    """
    of_sink = {} if looks.sink is None else looks.sink.layers
    for key, layers in (("layers", looks.layers), ("sink.layers", of_sink)):
        for layer, heads in layers.items():
            for where, what, index, count in (
                (f"{key}.{layer}", "layer", layer, shape[0]),
                *((f"{key}.{layer}.{head}", "head", head, shape[1]) for head in heads or ()),
            ):
                if index >= count:
                    raise InvalidModelError(f"{path}: {where}: the decoder's last {what} is {count - 1}")
