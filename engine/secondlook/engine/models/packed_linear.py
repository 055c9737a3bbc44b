"""Linear layers on a CPU with packed weights.

PyTorch multiplies float32 weights by MKL, as they lie in memory. oneDNN packs them in blocks, as
TorchInductor does with those of a frozen model. The same blocks serve `secondlook.kernels.blocked_linear`,
which reads them at the speed of memory where rows are few. `secondlook.engine.models.packing` chooses.

Kernels add products up in different orders, and oneDNN's do for different numbers of rows. Where that
multiplies, a row's result depends on how many are computed with it, as everywhere in PyTorch: by the float32
rounding of its sum, and in bfloat16 by one rounding of the result. Tokens and decisions depend on neighbours
in near ties only.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import torch
from torch import Tensor, nn

from secondlook.engine.models.fixed_linear import FixedLinear
from secondlook.kernels import blocked_linear
from secondlook.kernels.library import uses_reference

__all__ = ["PackedLinear", "can_pack"]

_PAIRS: Final = {torch.float32: 1, torch.bfloat16: 2}
_OPERATORS: Final = (
    *("_is_mkldnn_bf16_supported", "_linear_pointwise", "_reorder_linear_weight"),
    *("_nbytes", "data_ptr"),
)
_WIDTHS: Final = (64, 48, 32, 16)
_ALIKE: Final = 0.02
"""Of the largest result, what two kernels' may differ: in bfloat16 each is rounded to 8 bits."""
_ops: Any = torch.ops.mkldnn  # private to PyTorch


class PackedLinear(FixedLinear):
    """A linear layer on the CPU with packed weights, which are held once: `blocks` are the same memory."""

    def __init__(self, layer: nn.Linear, few: int = 0, fused: bool = False) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias, layer.training)
        weight = layer.weight.detach()
        self._weight: Tensor = _ops._reorder_linear_weight(weight)
        self.blocks = _blocks(self._weight, self.in_features, self.out_features)
        self.few = 0 if self.blocks is None else few
        self.fused = fused and self.blocks is not None and self.in_features % 2 == 0

    def unpacked(self) -> Tensor:
        """The weights [out_features, in_features], a copy of the very same values."""
        return self._weight.to_dense()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """[..., out_features] of [..., in_features]."""
        count = input.numel() // self.in_features
        if 0 < count <= self.few and input.dtype == self._weight.dtype:
            return self.of_few(input, self.bias)
        return self.multiplied(input, self.bias)

    def multiplied(self, input: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 -- torch's name
        """What oneDNN makes of any number of rows, with a bias of their dtype."""
        output: Tensor = _ops._linear_pointwise(input, self._weight, bias, "none", [], "")
        return output


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


def can_pack(layer: nn.Module) -> bool:
    """Whether oneDNN can multiply a layer, and was ever tried: on x86, in float32 and bfloat16."""
    if type(layer) is not nn.Linear or not layer.weight.is_cpu or layer.weight.dtype not in _PAIRS:
        return False
    capability: str = torch.backends.cpu.get_cpu_capability()
    if not capability.startswith("AVX") or not all(hasattr(_ops, name) for name in _OPERATORS):
        return False
    return layer.weight.dtype == torch.float32 or bool(_ops._is_mkldnn_bf16_supported())
