"""Which linear layers of a CPU's model are packed: measured once on a processor, and remembered.

What is faster depends on processor, dtype, shape and number of rows. Tokens and decisions depend on the
choice in near ties only; yet processes that share a folder choose alike, so that what one of them computes
another computes to the last bit.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import torch
from filelock import FileLock
from pydantic_core import to_jsonable_python
from torch import nn

from secondlook.edge.errors import SettingsError, WriteError
from secondlook.edge.files import write_files
from secondlook.edge.validation import from_json, validated
from secondlook.edge.versions import installed_version
from secondlook.engine.cache_folder import cache_folder
from secondlook.engine.devices import hardware_name
from secondlook.engine.models.packed_linear import PackedLinear, can_pack
from secondlook.kernels.library import status

__all__ = ["PACKED", "PLAIN", "Choice", "Seconds", "choose", "measure", "pack_linear_layers"]

_COUNTS: Final = (1, 2, 4, 8, 16, 64, 256, 640, 1280)
_FEW: Final = 16
_ROUNDS: Final = 4
_AGAIN: Final = 4
"""Times that so few rows are measured in a round: what is chosen for them decides a decode step's time."""
_LONGEST: Final = 0.002
"""Seconds: with more rows than `_FEW`, no call is measured that would take longer."""
_LIMIT: Final = 5.0
"""Seconds for a model: shapes that are not measured by then, as on a busy machine, keep plain layers."""
_COPIES: Final = 4
_VALUES: Final = 2**21
"""Weights a layer is measured with at most; more outputs than that makes are left out."""
_CLEARLY: Final = 0.9
"""What is chosen instead of a plain layer takes at most so much of its time, lest noise decides."""
_OVERHEAD: Final = 10e-6
"""Seconds of a call that are the interpreter's, and no reason against packing: all layers of a
decoder's step are one operator where their products are packed."""
_OURS: Final = 1.25
"""What our own product may take of oneDNN's time. Norms, activations and sums follow oneDNN's products in
passes of their own, and are within ours where operators compute whole layers. And one product again and
again, as it is measured, is oneDNN's best case: weights come from a cache then, a model's from memory, and
of a few rows that decides. With instructions that are its alone (AMX) oneDNN is several times as fast."""
_MUCH: Final = 1.15
Shape: TypeAlias = tuple[int, int, torch.dtype]
Clock: TypeAlias = Callable[[], float]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """How a layer is multiplied.

    Attributes:
        packed: whether weights are packed; else all is PyTorch's.
        few: up to so many rows are multiplied by our own operator, if it can read the blocks.
        fused: whether within our operators of whole layers any number is.
    """

    packed: bool = False
    few: int = 0
    fused: bool = False


PLAIN: Final = Choice()
PACKED: Final = Choice(packed=True)


class Seconds(NamedTuple):
    """Of one call: PyTorch's own layer; oneDNN with packed weights; our own operator with these, infinite
    where it cannot read them."""

    plain: float
    packed: float
    blocked: float


@torch.inference_mode()
def pack_linear_layers(model: nn.Module, choice: Choice | None = None) -> None:
    """Put a `PackedLinear` in the place of each linear layer where that was measured to be faster.

    One after another, so that no more than one layer's weights are in memory twice; but a packed head's stay
    so that are the embeddings', too. A shape is measured once on a processor, for a number of threads and
    these versions, and what was chosen is remembered in the user's cache folder.

    Nothing happens on a GPU, on other processors than x86, to other dtypes than float32 and bfloat16, and
    where this PyTorch lacks the operators.

    Args:
        choice: for all layers, instead of measuring.
    """
    shapes = {name: shape for name, layer in model.named_modules() if (shape := _shape(layer))}
    choices = _choices(set(shapes.values())) if shapes and choice is None else {}
    for name, shape in shapes.items():
        chosen = choice or choices[shape]
        if chosen.packed:
            layer: Any = model.get_submodule(name)
            model.set_submodule(name, PackedLinear(layer, chosen.few, chosen.fused))


def _shape(layer: nn.Module) -> Shape | None:
    """Of the part of a layer that is measured; None if it cannot be packed."""
    if not can_pack(layer):
        return None
    assert isinstance(layer, nn.Linear)
    outputs = min(layer.out_features, max(_VALUES // layer.in_features, 1))
    return layer.in_features, outputs, layer.weight.dtype


def _told(shape: Shape) -> str:
    inputs, outputs, dtype = shape
    return f"{inputs}x{outputs} {str(dtype).removeprefix('torch.')}"


@validated(frozen=True)
class _Known:
    """What was chosen on a processor, by what `_told` says of a shape."""

    choices: dict[str, Choice] = field(default_factory=dict)
    format: Literal[3] = 3


def _choices(shapes: set[Shape]) -> dict[Shape, Choice]:
    """What is chosen for each shape: as remembered, or measured now, one process after another."""
    names = {shape: _told(shape) for shape in shapes}
    served = status("cpu")  # what must be built for that is, before the clock runs
    try:
        file = cache_folder("packing") / f"{_key(served.path)}.json"
        known = _read(file)
        if not known.keys() >= set(names.values()):
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_suffix(".lock")):
                known = _read(file)
                known = {**known, **_measured({shape for shape in shapes if names[shape] not in known})}
                write_files({file: json.dumps(to_jsonable_python(_Known(known)), indent=4)})
            _log.info("how linear layers are multiplied was measured; to measure again, delete %s", file)
    except (OSError, SettingsError, WriteError) as error:
        _log.warning("how linear layers are multiplied fastest is measured each time: %s", error)
        known = _measured(shapes)
    return {shape: known.get(name, PLAIN) for shape, name in names.items()}


def _read(file: Path) -> dict[str, Choice]:
    """Nothing where nothing can be read."""
    try:
        return from_json(_Known, file.read_bytes()).choices
    except FileNotFoundError:
        return {}
    except SettingsError as error:
        _log.warning("%s is of another version, or damaged, and is made anew: %s", file, error)
        return {}


def _key(library: Path | None) -> str:
    """A digest of all that decides a measurement but for the shape."""
    parts = [
        hardware_name(torch.device("cpu")),
        torch.backends.cpu.get_cpu_capability(),
        torch.get_num_threads(),
        str(library),
        [installed_version(name) for name in ("secondlook", "torch")],
    ]
    return sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _measured(shapes: set[Shape]) -> dict[str, Choice]:
    """What there was time for."""
    limit = time.perf_counter() + _LIMIT
    found = {}
    for shape in sorted(shapes, key=_told):
        if time.perf_counter() < limit and (seconds := measure(shape, limit=limit)):
            found[_told(shape)] = choose(seconds)
    return found


@torch.inference_mode()
def measure(shape: Shape, *, limit: float = math.inf, clock: Clock = time.perf_counter) -> dict[int, Seconds]:
    """The fastest calls of layers of this shape, by the number of rows; past the limit of the clock, none."""
    inputs, outputs, dtype = shape
    plain = [nn.Linear(inputs, outputs, bias=False, device="meta") for _ in range(_COPIES)]
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0)).to(dtype)
    for layer in plain:
        layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    packed, blocked = ([PackedLinear(layer, few) for layer in plain] for few in (0, _COUNTS[-1]))
    kinds: list[Any] = [plain, packed, blocked]
    found: dict[int, list[Seconds]] = {count: [] for count in _COUNTS}
    for _ in range(_ROUNDS):
        seconds = math.inf
        for before, count in zip((1, *_COUNTS), _COUNTS, strict=False):
            if count > _FEW and seconds * count / before > _LONGEST:
                break
            rows, calls = torch.ones(count, inputs, dtype=dtype), max(_COPIES // count, 1)
            for _ in range(_AGAIN if count <= _FEW else 1):
                times = [clock()]
                for kind in kinds:
                    for call in range(calls):
                        kind[call](rows)
                    times.append(clock())
                if times[-1] > limit:
                    return {}
                each = [(end - start) / calls for start, end in pairwise(times)]
                if count > blocked[0].few:
                    each[2] = math.inf
                found[count].append(Seconds(*each))
            seconds = min(each)
    # without the first round, in which oneDNN makes its kernels
    return {
        count: Seconds(*map(min, zip(*turns[len(turns) // _ROUNDS :], strict=True)))
        for count, turns in found.items()
        if turns[2:]
    }


def choose(seconds: Mapping[int, Seconds]) -> Choice:
    """Packed weights if they are clearly faster on average, and for no number of rows much slower. Our own
    operator multiplies up to that number of few rows to which what it takes less than `_OURS` of oneDNN's
    time adds up most, so that one disturbed measurement decides nothing, unless packing pays without it
    alone; and any number within a layer, if of many it takes no longer than that."""
    few, gained, most = 0, 0.0, 0.0
    for count, each in seconds.items():
        gained += _OURS - each.blocked / each.packed
        if count <= _FEW and gained > most:
            few, most = count, gained
    many = [each.blocked / each.packed for count, each in seconds.items() if count > _FEW]
    fused = bool(many) and median(many) <= _OURS
    for own in (few, 0):
        ratios = [
            (each.blocked if count <= own else each.packed) / (each.plain + _OVERHEAD)
            for count, each in seconds.items()
        ]
        if ratios and max(ratios) <= _MUCH and sum(ratios) / len(ratios) <= _CLEARLY:
            return Choice(packed=True, few=own, fused=fused)
    return PLAIN
