"""SDPA attention that can also tell where one token looks.

Importing this module registers `ATTENTION` ("secondlook") with transformers' attention and mask interfaces. A
model set to it runs plain SDPA everywhere. A forward call that carries an `AttentionProbe` (keyword
`attention_probe`) has, at the probe's layer, one softmax row computed besides: that of the last query
position. No attention matrix is ever materialised.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["ATTENTION", "AttentionProbe", "attention_row"]

ATTENTION = "secondlook"
"""The name under which transformers knows the attention function of this module."""


@dataclass
class AttentionProbe:
    """A request for one attention row, and, after the forward call, the row.

    Attributes:
        layer: 0-based decoder layer to read.
        start, stop: the key positions wanted, half open: the image's span in the sequence.
        row: [B, stop - start] float32, mean over heads; None before the forward call.
    """

    layer: int
    start: int
    stop: int
    row: Tensor | None = field(default=None, init=False)


def attention_row(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """The attention of one query position to every key, averaged over heads.

    Args:
        query: [B, H, D], one position.
        key: [B, Hkv, K, D] with H a multiple of Hkv (grouped-query attention).
        mask: None, or broadcastable to [B, H, K]: boolean (True may be seen) or additive.
        scaling: multiplies the dot products.

    Returns:
        [B, K] float32; every row sums to one.
    """
    batch, heads, width = query.shape
    kv_heads, length = key.shape[1], key.shape[2]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads, width)
    scores = torch.matmul(grouped, key.transpose(2, 3)) * scaling  # [B, Hkv, H / Hkv, K]
    scores = scores.reshape(batch, heads, length).float()
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, float("-inf"))
        else:
            scores = scores + mask.float()
    return scores.softmax(dim=-1).mean(dim=1)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    attention_probe: AttentionProbe | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function transformers calls: query [B, H, Q, D], key and value [B, Hkv, K, D]."""
    if attention_probe is not None and getattr(module, "layer_idx", None) == attention_probe.layer:
        mask = None if attention_mask is None else attention_mask[:, :, -1, :]
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        row = attention_row(query[:, :, -1], key, mask, scale)
        attention_probe.row = row[:, attention_probe.start : attention_probe.stop]
    output, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return output, None


AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
