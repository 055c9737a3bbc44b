"""Linear layers that stand in a model's place of plain ones, for inference alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from secondlook.kernels import blocked_linear

__all__ = ["FixedLinear"]


class FixedLinear(nn.Module):
    """What a linear layer computes, for inference, with weights that lie as what multiplies them wants it.

    It can be neither moved nor cast, and no state can be loaded into it; but its own state is the plain
    layer's, and a deep copy is a plain layer.

    Attributes:
        blocks: the weights as `blocked_linear` takes them; None where they do not lie so.
        few: up to so many rows are multiplied by that.
        fused: whether operators of whole layers may multiply any number of rows with the blocks.
    """

    blocks: Tensor | None = None
    few: int = 0
    fused: bool = False

    def __init__(self, inputs: int, outputs: int, bias: nn.Parameter | None, training: bool) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = inputs, outputs, bias
        self.train(training)

    def unpacked(self) -> Tensor:
        """The weights [out_features, in_features], a copy, as a plain layer has them."""
        raise NotImplementedError

    def over_rows(self, input: Tensor, multiply: Callable[[Tensor], Tensor]) -> Tensor:  # noqa: A002
        """[..., out_features], what a function makes of rows [R, in_features], contiguous."""
        rows = input.reshape(input.numel() // self.in_features, self.in_features).contiguous()
        return multiply(rows).view(*input.shape[:-1], self.out_features)

    def of_few(self, input: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 -- torch's name
        """What `blocked_linear` makes of up to `few` rows, with a bias of their dtype."""
        blocks = self.blocks
        assert blocks is not None, "they were found when few was set"
        return self.over_rows(input, lambda rows: blocked_linear(rows, blocks, bias, self.out_features))

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
