"""Which runtime encodes fastest on this machine: measured once, and remembered.

A candidate is admitted if what it makes of a few pictures is within the gate's tolerance. That is the part of
the gate that takes seconds; what answers made of it are worth, `secondlook verify` tells.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Final, Literal

import torch
from PIL import Image
from pydantic_core import to_jsonable_python
from torch import Tensor

from secondlook.edge.errors import WriteError
from secondlook.edge.files import write_files
from secondlook.edge.geometry import Size
from secondlook.edge.validation import validated
from secondlook.edge.versions import installed_version
from secondlook.engine.cache_folder import cache_folder
from secondlook.engine.devices import hardware_name, synchronise
from secondlook.engine.encoders.manifest import TOLERANCES, EncoderManifest, read_json, read_manifest
from secondlook.engine.encoders.plan_store import plans_in, readable
from secondlook.engine.errors import EncoderMismatchError, RuntimeMissingError
from secondlook.engine.models.base import VisionLanguageModel

__all__ = ["with_fastest"]

_log = logging.getLogger(__name__)

_OWN: Final = "torch"
_ROUNDS: Final = 4
"""Of which the first warms up."""
_ORIGINAL: Final = Size(640, 480)
_PACKAGES: Final = (
    "secondlook",
    "torch",
    *("onnxruntime", "onnxruntime-gpu"),
    "openvino",
    *("tensorrt-cu13", "tensorrt-lean-cu13"),
)


@validated(frozen=True)
class _Measured:
    """What was found of those that are admitted.

    Attributes:
        fastest: the runtime that encodes.
        milliseconds: that each takes for one picture, the median.
        relative_error: of what each makes of a picture, the largest; see `Parity`.
    """

    fastest: str
    milliseconds: dict[str, float]
    relative_error: dict[str, float]
    format: Literal[1] = 1

    def __str__(self) -> str:
        times = (
            f"{name} {taken:.3g} ms (relative error {self.relative_error[name]:.1e})"
            for name, taken in self.milliseconds.items()
        )
        return f"{self.fastest} encodes; a picture takes {', '.join(times)}"


def with_fastest(
    model: VisionLanguageModel,
    folder: Path,
    candidates: Mapping[str, Callable[[], VisionLanguageModel]],
) -> VisionLanguageModel:
    """The model with the fastest of its own encoder and the candidates that are installed here and admitted.

    What was measured is remembered for this processor or GPU, number of threads, model, dtype, export, and
    these versions of what encodes.

    Args:
        folder: of the exported encoder.
        candidates: each opens the model with another encoder, by the runtime's name.

    Raises:
        EncoderError: the export does not fit the model or is damaged.
        SettingsError: there is no folder to remember in.
    """
    manifest = read_manifest(folder)
    manifest.check_fits(folder, model)
    everyone: dict[str, Callable[[], VisionLanguageModel]] = {_OWN: lambda: model, **candidates}
    file = cache_folder("vision") / f"{_key(model, manifest)}.json"
    found = readable(partial(read_json, _Measured), file) if file.is_file() else None
    if found is not None and found.fastest in everyone:
        _log.info("%s, as measured before; to measure again, delete %s", found, file)
        if (known := _opened(found.fastest, everyone[found.fastest])) is not None:
            return known
    tried = {name: _opened(name, opens) for name, opens in everyone.items()}
    opened = {name: each for name, each in tried.items() if each is not None}
    _log.info("measuring which encodes fastest: %s", ", ".join(opened))
    found = _measured(model, manifest, opened)
    _log.info("%s", found)
    try:
        write_files({file: json.dumps(to_jsonable_python(found), indent=4)})
    except WriteError as error:
        _log.warning("what was measured is forgotten: %s", error)
    return opened[found.fastest]


def _key(model: VisionLanguageModel, manifest: EncoderManifest) -> str:
    """The name of what was measured: a digest of all that decides it."""
    device = model.device
    plans = sorted(path.name for path in plans_in(cache_folder("plans"))) if device.type == "cuda" else []
    parts = [
        hardware_name(device),
        torch.get_num_threads(),
        str(model.dtype),
        model.encoder_digest(),
        manifest.files,
        [installed_version(name) for name in _PACKAGES],
        plans,
    ]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _opened(name: str, opens: Callable[[], VisionLanguageModel]) -> VisionLanguageModel | None:
    """None, and a remark, where its runtime is not here."""
    try:
        return opens()
    except (RuntimeMissingError, EncoderMismatchError) as error:
        _log.info("passed over %s: %s", name, error)
        return None


def _measured(
    model: VisionLanguageModel, manifest: EncoderManifest, opened: Mapping[str, VisionLanguageModel]
) -> _Measured:
    """Times, in turns, and errors beside the most precise: torch in float32; else the float32 graph, which
    passed the gate, in ONNX Runtime; else torch."""
    dtype = str(model.dtype).removeprefix("torch.")
    graph = "onnx" in opened and dtype != "float32" and manifest.dtype == "float32"
    truth = "onnx" if graph else _OWN
    tolerance = max(limit for name, limit in TOLERANCES.items() if name in (dtype, manifest.dtype))
    seconds: dict[str, list[float]] = {name: [] for name in opened}
    errors = dict.fromkeys(opened, 0.0)
    for number in range(_ROUNDS):
        made = dict[str, list[Tensor]]()
        for name, each in opened.items():
            synchronise(model.device)
            began = time.perf_counter()
            made[name] = _encoded(each, number)
            synchronise(model.device)
            seconds[name].append(time.perf_counter() - began)
        for name, features in made.items():
            errors[name] = max(errors[name], *map(_error, features, made[truth]))
    times = dict[str, float]()
    for name, taken in seconds.items():
        if name == _OWN or errors[name] <= tolerance:
            times[name] = 1e3 * statistics.median(taken[1:])
        else:
            told = f"its relative error is {errors.pop(name):.1e}, more than {tolerance:.0e}"
            _log.warning("passed over %s: %s", name, told)
    return _Measured(min(times, key=times.__getitem__), times, errors)


def _encoded(model: VisionLanguageModel, seed: int) -> list[Tensor]:
    """All that an encoder makes of a picture, and of a question about it."""
    size, noise = (_ORIGINAL.width, _ORIGINAL.height), Random(seed).randbytes(3 * _ORIGINAL.pixels)
    image = Image.frombytes("RGB", size, noise)
    (features,) = model.encode([model.picture(image, model.global_view, _ORIGINAL)])
    rows, _ = model.condition(features, model.tokens("What is this?"))
    return [features.tokens, *features.deep, rows.tokens]


def _error(mine: Tensor, theirs: Tensor) -> float:
    """Infinite where something is NaN, which no maximum would tell."""
    error = float((mine.float() - theirs.float()).norm() / theirs.float().norm())
    return math.inf if math.isnan(error) else error
