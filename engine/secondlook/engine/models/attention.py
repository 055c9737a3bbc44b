"""Transformers' door: how a decoder of theirs attends by a plan.

Importing this module registers `ATTENTION` ("secondlook") with transformers' attention interface. A model set
to it takes a plan with each forward call (keyword `attention_plan`), see `secondlook.engine.decode.plans`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from secondlook.engine.decode.plans import AttentionPlan

__all__ = ["ATTENTION"]

ATTENTION = "secondlook"
"""The name under which transformers knows the attention function of this module."""


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    attention_plan: AttentionPlan | None = None,
    **_kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function transformers calls; see AttentionPlan."""
    assert attention_plan is not None, "a model with this attention is called with a plan"
    assert attention_mask is None, "the plan says what is seen"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: Any = module.layer_idx
    return attention_plan.attend(layer, query, key, value, scale), None


AttentionInterface.register(ATTENTION, _attend)
