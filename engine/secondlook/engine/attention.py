"""SDPA attention that can also tell where one token looks.

Importing this module registers `ATTENTION` ("secondlook") with transformers' attention and mask interfaces. A
model set to it runs plain SDPA everywhere. A forward call that carries an `AttentionProbe` (keyword
`attention_probe`) has, at the probe's layer, one softmax row computed besides: that of the last query
position, by the operator `attention_row`. No attention matrix is ever materialised.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from secondlook.kernels import attention_row

__all__ = ["ATTENTION", "AttentionProbe"]

ATTENTION = "secondlook"
"""The name under which transformers knows the attention function of this module."""


@dataclass
class AttentionProbe:
    """A request for one attention row, and, after the forward call, the row.

    The last query position must see every key, as it does in causal attention without padding.

    Attributes:
        layer: 0-based decoder layer to read.
        start, stop: the key positions wanted, half open: the image's span in the sequence.
        row: [B, stop - start] float32, mean over heads; None before the forward call.
    """

    layer: int
    start: int
    stop: int
    row: Tensor | None = field(default=None, init=False)


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
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        lengths = torch.full((key.shape[0],), key.shape[2], device=key.device)
        attention_probe.row = attention_row(
            query[:, :, -1], key, lengths, attention_probe.start, attention_probe.stop, scale
        )
    output, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return output, None


AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
