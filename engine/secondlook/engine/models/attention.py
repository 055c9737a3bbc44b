"""Transformers' door: how a decoder of theirs attends by a plan, and a vision encoder in an exported graph.

Importing this module registers `ATTENTION` ("secondlook") with transformers' attention interface. A model set
to it takes a plan with each forward call (keyword `attention_plan`), see `secondlook.engine.decode.plans`.
One set to `GRAPH_ATTENTION` attends by `graph_attention`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from secondlook.engine.decode.plans import AttentionPlan

__all__ = ["ATTENTION", "GRAPH_ATTENTION", "graph_attention"]

ATTENTION = "secondlook"
"""The name under which transformers knows the attention function of this module."""

GRAPH_ATTENTION = "secondlook_graph"


def graph_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention written for other runtimes: products and a float32 softmax, the query scaled before the first
    product, as TensorRT fuses it.

    Args:
        query, key, value: [n, H, L, d].
        seen: bool, broadcast to [n, H, L, L]; None: all.

    Returns:
        what was found, [n, H, L, d], and the weights [n, H, L, L] float32.
    """
    scores = ((query * scale) @ key.transpose(2, 3)).float()
    if seen is not None:
        scores = scores.masked_fill(~seen, torch.finfo(torch.float32).min)
    weights = scores.softmax(-1)
    return weights.to(value.dtype) @ value, weights


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


def _attend_in_graph(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """The attention function transformers calls."""
    assert attention_mask is None, "vision encoders see all"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    found, weights = graph_attention(query, key, value, scale)
    return found.transpose(1, 2).contiguous(), weights


AttentionInterface.register(ATTENTION, _attend)
AttentionInterface.register(GRAPH_ATTENTION, _attend_in_graph)
