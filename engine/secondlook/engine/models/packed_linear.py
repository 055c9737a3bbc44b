"""Linear layers on a CPU, multiplied as is the fastest there: by a measurement when a model is loaded.

PyTorch multiplies float32 weights by MKL, as they lie in memory. oneDNN packs them in blocks, as
TorchInductor does with those of a frozen model. What is faster depends on processor, dtype, shape and number
of rows. The same blocks serve `secondlook.kernels.blocked_linear`, which reads them at the speed of memory
where rows are few.

Kernels add products up in different orders, and one kernel does for different numbers of rows. So a row's
result depends on how many are computed with it, as everywhere in PyTorch: by the float32 rounding of its sum,
and in bfloat16 by one rounding of the result. Tokens and decisions depend on neighbours, and on the choice
made here, in near ties only.
"""

from __future__ import annotations

import copy
import ctypes
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from secondlook.kernels import blocked_linear
from secondlook.kernels.library import uses_reference

__all__ = ["PACKED", "PLAIN", "Choice", "PackedLinear", "Seconds", "choose", "measure", "pack_linear_layers"]

_PAIRS: Final = {torch.float32: 1, torch.bfloat16: 2}
_OPERATORS: Final = (
    *("_is_mkldnn_bf16_supported", "_linear_pointwise", "_reorder_linear_weight"),
    *("_nbytes", "data_ptr"),
)
_WIDTHS: Final = (64, 48, 32, 16)
_COUNTS: Final = (1, 2, 4, 8, 16, 64, 256, 640, 1280)
_FEW: Final = 16
_ROUNDS: Final = 4
_AGAIN: Final = 4
"""Times that so few rows are measured in a round: what is chosen for them decides a decode step's time."""
_LONGEST: Final = 0.002
"""Seconds: with more rows than `_FEW`, no call is measured that would take longer."""
_LIMIT: Final = 1.0
"""Seconds for a model: shapes that are not measured by then, as on a busy machine, keep plain layers."""
_COPIES: Final = 4
_VALUES: Final = 2**21
"""Weights a layer is measured with at most; more outputs than that makes are left out."""
_CLEARLY: Final = 0.9
"""What is chosen instead of a plain layer takes at most so much of its time, lest noise decides."""
_HARDLY: Final = 1.05
_MUCH: Final = 1.15
_ALIKE: Final = 0.02
"""Of the largest result, what two kernels' may differ: in bfloat16 each is rounded to 8 bits."""
Shape: TypeAlias = tuple[int, int, torch.dtype]
Clock: TypeAlias = Callable[[], float]
_ops: Any = torch.ops.mkldnn  # private to PyTorch
_known: dict[tuple[Shape, int], Choice] = {}  # as long as the process lives: by shape and number of threads


@dataclass(frozen=True)
class Choice:
    """How a layer is multiplied.

    Attributes:
        packed: whether weights are packed; else all is PyTorch's.
        few: up to so many rows are multiplied by our own operator, if it can read the blocks.
    """

    packed: bool = False
    few: int = 0


PLAIN: Final = Choice()
PACKED: Final = Choice(packed=True)


class Seconds(NamedTuple):
    """Of one call: PyTorch's own layer; oneDNN with packed weights; our own operator with these, infinite
    where it cannot read them."""

    plain: float
    packed: float
    blocked: float


class PackedLinear(nn.Module):
    """What a linear layer computes, for inference on the CPU, with packed weights, which are held once.

    It can be neither moved nor cast, and no state can be loaded into it; but its own state is the plain
    layer's, and a deep copy is a plain layer.

    Attributes:
        blocks: the same memory, as `blocked_linear` takes it; None if it cannot.
        few: up to so many rows are multiplied by that.
    """

    def __init__(self, layer: nn.Linear, few: int = 0) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        weight = layer.weight.detach()
        self._weight: Tensor = _ops._reorder_linear_weight(weight)
        self.blocks = _blocks(self._weight, self.in_features, self.out_features)
        self.few = 0 if self.blocks is None else few
        self.train(layer.training)

    def unpacked(self) -> Tensor:
        """The weights [out_features, in_features], a copy of the very same values."""
        return self._weight.to_dense()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """[..., out_features] of [..., in_features]."""
        count = input.numel() // self.in_features
        if 0 < count <= self.few and input.dtype == self._weight.dtype:
            assert self.blocks is not None, "they were found when few was set"
            rows = input.reshape(count, self.in_features).contiguous()
            found = blocked_linear(rows, self.blocks, self.bias, self.out_features)
            return found.view(*input.shape[:-1], self.out_features)
        output: Tensor = _ops._linear_pointwise(input, self._weight, self.bias, "none", [], "")
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Linear:
        """A plain layer, for what must read its weights: other devices, other dtypes, exports."""
        with torch.device("meta"):  # nothing is allocated
            layer = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        layer.weight = nn.Parameter(self.unpacked(), requires_grad=False)
        layer.bias = copy.deepcopy(self.bias, memo)
        return layer.train(self.training)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        raise TypeError("packed weights can be neither moved nor cast; make a deep copy first")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.unpacked()  # before the bias, as a plain layer has it
        super()._save_to_state_dict(destination, prefix, keep_vars)


def _blocks(packed: Tensor, inputs: int, outputs: int) -> Tensor | None:
    """Packed weights as `blocked_linear` takes them, in the same memory, which lives as long as `packed`.

    Nothing tells how oneDNN packs, so what is found is multiplied with, and kept if that gives what oneDNN
    gives.
    """
    if uses_reference(torch.device("cpu")):
        return None
    pair, size = _PAIRS[packed.dtype], _ops._nbytes(packed)
    memory = (ctypes.c_char * size).from_address(_ops.data_ptr(packed))
    flat = torch.frombuffer(memory, dtype=packed.dtype)
    rows = torch.randn(1, inputs, generator=torch.Generator().manual_seed(inputs)).to(packed.dtype)
    expected = _ops._linear_pointwise(rows, packed, None, "none", [], "")
    for width in _WIDTHS:
        blocks, rest = divmod(len(flat), -(-outputs // width) * width * pair)
        if rest or blocks * pair < inputs:
            continue
        found = flat.view(-1, blocks, width, pair)
        apart = (blocked_linear(rows, found, None, outputs).float() - expected.float()).abs().max()
        if apart <= _ALIKE * expected.float().abs().max():
            return found
    return None


@torch.inference_mode()
def pack_linear_layers(model: nn.Module, choice: Choice | None = None) -> None:
    """Put a `PackedLinear` in the place of each linear layer where that was measured to be faster.

    One after another, so that no more than one layer's weights are in memory twice; but a packed head's stay
    so that are the embeddings', too. The shapes of a model are measured once a process, in less than a second
    altogether: models alike that one process loads compute with the same kernels, if there was time for all.

    Nothing happens on a GPU, on other processors than x86, to other dtypes than float32 and bfloat16, and
    where this PyTorch lacks the operators.

    Args:
        choice: for all layers, instead of measuring.
    """
    shapes = {name: shape for name, layer in model.named_modules() if (shape := _shape(layer))}
    choices = _measured(frozenset(shapes.values()), torch.get_num_threads()) if choice is None else {}
    for name, shape in shapes.items():
        chosen = choice or choices[shape]
        if chosen.packed:
            layer: Any = model.get_submodule(name)
            model.set_submodule(name, PackedLinear(layer, chosen.few))


def _shape(layer: nn.Module) -> Shape | None:
    """Of the part of a layer that is measured; None if oneDNN cannot multiply it, or was never tried."""
    if type(layer) is not nn.Linear or not layer.weight.is_cpu or layer.weight.dtype not in _PAIRS:
        return None
    capability: str = torch.backends.cpu.get_cpu_capability()
    if not capability.startswith("AVX") or not all(hasattr(_ops, name) for name in _OPERATORS):
        return None
    if layer.weight.dtype == torch.bfloat16 and not _ops._is_mkldnn_bf16_supported():
        return None
    outputs = min(layer.out_features, max(_VALUES // layer.in_features, 1))
    return layer.in_features, outputs, layer.weight.dtype


def _measured(shapes: frozenset[Shape], threads: int) -> dict[Shape, Choice]:
    """What is chosen for each shape. What was measured is remembered; what there was no time for is not."""
    uses_reference(torch.device("cpu"))  # what must be built for that is, before the clock runs
    limit = time.perf_counter() + _LIMIT
    for shape in sorted(shapes, key=str):
        if (shape, threads) not in _known and time.perf_counter() < limit:
            found = measure(shape, limit=limit)
            if found:
                _known[shape, threads] = choose(found)
    return {shape: _known.get((shape, threads), PLAIN) for shape in shapes}


@torch.inference_mode()
def measure(shape: Shape, *, limit: float = math.inf, clock: Clock = time.perf_counter) -> dict[int, Seconds]:
    """The fastest calls of layers of this shape, by the number of rows; past the limit of the clock, none."""
    inputs, outputs, dtype = shape
    plain = [nn.Linear(inputs, outputs, bias=False, device="meta") for _ in range(_COPIES)]
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0)).to(dtype)
    for layer in plain:
        layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    packed, blocked = ([PackedLinear(layer, few) for layer in plain] for few in (0, _FEW))
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
    operator multiplies up to that number of rows to which its gains add up most, so that one disturbed
    measurement decides nothing."""
    few, gained, most = 0, 0.0, 0.0
    for count, each in seconds.items():
        gained += _HARDLY - each.blocked / each.packed
        if gained > most:
            few, most = count, gained
    ratios = [(each.blocked if count <= few else each.packed) / each.plain for count, each in seconds.items()]
    if ratios and max(ratios) <= _MUCH and sum(ratios) / len(ratios) <= _CLEARLY:
        return Choice(packed=True, few=few)
    return PLAIN
