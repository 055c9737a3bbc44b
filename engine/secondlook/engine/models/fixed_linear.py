"""Linear layers that stand in a model's place of plain ones, for inference alone."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FixedLinear"]


class FixedLinear(nn.Module):
    """What a linear layer computes, for inference, with weights that lie as what multiplies them wants it.

    It can be neither moved nor cast, and no state can be loaded into it; but its own state is the plain
    layer's, and a deep copy is a plain layer.
    """

    def __init__(self, inputs: int, outputs: int, bias: nn.Parameter | None, training: bool) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = inputs, outputs, bias
        self.train(training)

    def unpacked(self) -> Tensor:
        """The weights [out_features, in_features], a copy, as a plain layer has them."""
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Linear:
        """A plain layer, for what must read its weights: other devices, other dtypes, exports."""
        with torch.device("meta"):  # nothing is allocated
            layer = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        layer.weight = nn.Parameter(self.unpacked(), requires_grad=False)
        layer.register_parameter("bias", copy.deepcopy(self.bias, memo))
        return layer.train(self.training)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        raise TypeError("packed weights can be neither moved nor cast; make a deep copy first")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.unpacked()  # before the bias, as a plain layer has it
        super()._save_to_state_dict(destination, prefix, keep_vars)
