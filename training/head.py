"""What a tower is taught to tell of every patch: colour, digits, centre, read by one linear layer."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.closeups import IGNORED

__all__ = ["PatchHead", "patch_loss"]


class PatchHead(nn.Module):
    """Linear read-out of a patch feature: colour (7, 0 is none), tens, units (10 each), sign's centre (2)."""

    SIZES: Final = [7, 10, 10, 2]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, sum(self.SIZES))

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        logits: Tensor = self.linear(features)
        return torch.split(logits.float(), self.SIZES, dim=-1)


def patch_loss(head: PatchHead, features: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Summed cross-entropy of the four read-outs and the share of labelled digits that are read right.

    features [R, D]; labels int64 [4, R].
    """
    outputs = head(features)
    loss = features.new_zeros((), dtype=torch.float32)
    for kind, logits in enumerate(outputs):
        count = (labels[kind] != IGNORED).sum().clamp(min=1)
        total = functional.cross_entropy(logits, labels[kind], ignore_index=IGNORED, reduction="sum")
        loss = loss + total / count
    labelled = labels[1:3] != IGNORED
    right = torch.stack([outputs[1].argmax(-1), outputs[2].argmax(-1)]) == labels[1:3]
    return loss, float(right[labelled].float().mean()) if labelled.any() else 0.0
