"""Linear layers on a CPU, their weights packed for oneDNN as TorchInductor packs those of a frozen model.

PyTorch's own layers read their weights as they lie in memory. Packed in blocks they are multiplied faster, by
few rows and by many (`secondlook bench kernels`), and a row's result has the same bits however many others
are computed with it. Both were seen with AVX-512 (AMD Zen 4); Intel's processors and AMX were not tried.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PackedLinear", "pack_linear_layers"]

_DTYPES: Final = (torch.float32, torch.bfloat16)
_MEASURED: Final = "AVX512"
_WIDE: Final = 1024
"""One row of more values than this is summed in another order when it is alone."""
_LARGE: Final = 2**20
"""So many weights come from memory, and are then multiplied slower by fewer rows than `_ROWS`."""
_ROWS: Final = 4
_OPERATORS: Final = ("_is_mkldnn_bf16_supported", "_linear_pointwise", "_reorder_linear_weight")
_ops: Any = torch.ops.mkldnn  # private to PyTorch


class PackedLinear(nn.Module):
    """What a linear layer computes, for inference on the CPU; it holds its weights packed only.

    It can be neither moved nor cast, and no state can be loaded into it; but its own state is the plain
    layer's, and a deep copy is a plain layer.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self._packed: Tensor = _ops._reorder_linear_weight(layer.weight.detach())
        self._fewest = _ROWS if layer.in_features > _WIDE or layer.weight.numel() >= _LARGE else 1
        self.train(layer.training)

    def unpacked(self) -> Tensor:
        """A copy of the weights [out_features, in_features], the very same values."""
        return self._packed.to_dense()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- torch's name
        """[..., out_features] of [..., in_features]."""
        count = input.numel() // self.in_features
        if not 0 < count < self._fewest:
            return self._multiply(input)
        rows = functional.pad(input.reshape(-1, self.in_features), (0, 0, 0, self._fewest - count))
        return self._multiply(rows)[:count].view(*input.shape[:-1], self.out_features)

    def _multiply(self, rows: Tensor) -> Tensor:
        output: Tensor = _ops._linear_pointwise(rows, self._packed, self.bias, "none", [], "")
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

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.unpacked()  # before the bias, as a plain layer has it
        super()._save_to_state_dict(destination, prefix, keep_vars)


def pack_linear_layers(model: nn.Module) -> None:
    """Put a `PackedLinear` in the place of each linear layer, as quantisers do with theirs.

    One after another, so that no more than one layer's weights are in memory twice; but a head's stay so that
    are the embeddings', too.

    Nothing happens where that was not measured to be faster: on other CPUs than those with AVX-512, for other
    dtypes than float32 and bfloat16, and on a GPU.
    """
    for name in [name for name, _ in model.named_modules()]:
        layer = model.get_submodule(name)
        if type(layer) is nn.Linear and _can_be_packed(layer.weight):
            model.set_submodule(name, PackedLinear(layer))


def _can_be_packed(weight: Tensor) -> bool:
    capability: str = torch.backends.cpu.get_cpu_capability()
    served = capability.startswith(_MEASURED) and all(hasattr(_ops, name) for name in _OPERATORS)
    if not (served and weight.is_cpu and weight.dtype in _DTYPES):
        return False
    return weight.dtype == torch.float32 or bool(_ops._is_mkldnn_bf16_supported())
